"""`banyan data at`: what a step was made of is computed, and is what the run really trained on."""

import re

import pytest

from tests.corpus import write_texts
from tests.run_ranks import pretrain, run_ranks, small_config
from trainer.config import Data
from trainer.config.ramps import Ramps
from trainer.data.tokens.datasets import open_training
from trainer.data.tokens.history import History
from trainer.data.tokens.loader import Loader
from trainer.data.tokens.mixture import mixture_in
from trainer.data.tokens.order import Order
from trainer.errors import ConfigError, InputError
from trainer.objective.causal import Causal
from trainer.run.directory import load_run_tokenizer
from trainer.verbs.data import main


@pytest.fixture(scope="module")
def run_dir(corpus, tmp_path_factory):
    """A run whose batch size changed at a restart after step 4."""
    folder = tmp_path_factory.mktemp("provenance") / "run"
    assert run_ranks(pretrain, small_config(corpus, folder, train__stop_at=4), 1) == [85]
    config = small_config(corpus, folder, train__batch_size=4, run__allow_change=True)
    assert run_ranks(pretrain, config, 2) == [0, 0]
    return folder


def places_printed(text):
    return re.findall(r"^position ([\d,]+): (\w+), epoch (\d+), (\S+), row (\d+)$", text, re.MULTILINE)


def test_every_step_s_positions_follow_on_each_other(run_dir, capsys):
    positions = []
    for step in range(1, 11):
        assert main(["at", str(run_dir), f"step={step}"]) == 0
        positions += [int(place[0].replace(",", "")) for place in places_printed(capsys.readouterr().out)]
    assert positions == list(range(4 * 8 + 6 * 4))


def test_text_shown_is_the_text_in_the_batch_and_in_the_source(run_dir, corpus, capsys):
    main(["at", str(run_dir), "step=6"])
    shown = capsys.readouterr().out
    sets = open_training(Data(path=str(corpus), sequence_length=32))
    rows = [dataset.rows for dataset in sets]
    history = History([], []).go_on(step=0, position=0, ramps=Ramps(4), rows=rows, mixture=mixture_in(Data(), rows))
    loader = Loader(
        sets,
        Order(rows, history.segments, seed=0, window=2),
        Ramps(4),
        4,
        0,
        1,
        to_batch=Causal(0, None).to_batch,
        prefetch=1,
    )
    tokenizer = load_run_tokenizer(run_dir)
    batch = next(loader.batches(4 * 8 + 4))
    printed = "".join(re.findall(r"^    (.*)$", shown, re.MULTILINE))
    assert printed == "".join(tokenizer.decode(row) for row in batch.inputs.tolist())
    texts = write_texts(60)
    for record, text in re.findall(r"texts\.jsonl, record (\d+): .*\n    (.*)\n", shown):
        assert text.removesuffix("<|endoftext|>") in texts[int(record)]


@pytest.mark.parametrize("arguments", [["step=0"], ["step=x"], ["5"], []])
def test_bad_step_is_refused(run_dir, arguments):
    with pytest.raises(ConfigError, match="step=N"):
        main(["at", str(run_dir), *arguments])


def test_step_beyond_the_run_is_refused(run_dir):
    with pytest.raises(InputError, match="step=11: the run has 10 steps"):
        main(["at", str(run_dir), "step=11"])


def test_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no config\.yaml there"):
        main(["at", str(tmp_path), "step=1"])

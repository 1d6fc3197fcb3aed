"""Ramps of batch size and row length: the course is plain PyTorch's, at any shape, and a resume is exact anywhere."""

import json
import re
from itertools import islice

import pytest

from tests.engine.reference import assert_same_course, train_plainly
from tests.run_ranks import pretrain, read_metrics, run_ranks, small_config
from trainer.config import Train
from trainer.config.data import LengthStage
from trainer.config.ramps import Ramps, StepSize
from trainer.config.training import BatchStage
from trainer.data.tokens.history import History, Rewind, read_history
from trainer.errors import ConfigError
from trainer.rules.pretrain import check_pretrain
from trainer.verbs.data import main

# Rows of 32 tokens: 4 and then 8 to a step, cut into 8 tokens, then 16, then whole
RAMPS = {
    "train__batch_ramp": {"first": BatchStage(until_tokens=300, batch_size=4)},
    "data__length_ramp": {"short": LengthStage(400, 8), "middle": LengthStage(900, 16)},
    "train__batch_size": 8,
}
SIZES = [(4, 8), (4, 8), (4, 8), (8, 8), (8, 16), (8, 16), (8, 32), (8, 32)]


def config_of(corpus, run_dir, **changes):
    return small_config(corpus, run_dir, **{"train__steps": 8} | RAMPS | changes)


@pytest.fixture(scope="module")
def reference(corpus, tmp_path_factory):
    return train_plainly(small_config(corpus, tmp_path_factory.mktemp("plain"), train__steps=8), SIZES)


@pytest.mark.parametrize(
    ("ranks", "changes"),
    [
        pytest.param(1, {"parallel__zero_stage": 0, "train__micro_batch_size": 4}, id="1 rank"),
        pytest.param(2, {"parallel__zero_stage": 3, "train__micro_batch_size": 1}, id="stage 3"),
        pytest.param(2, {"parallel__zero_stage": 1, "train__micro_batch_size": None}, id="stage 1"),
        pytest.param(2, {"parallel__zero_stage": 0, "parallel__sequence": 2}, id="sequence", marks=pytest.mark.full),
        pytest.param(2, {"parallel__zero_stage": 2, "parallel__tensor": 2}, id="tensor", marks=pytest.mark.full),
        pytest.param(
            4, {"parallel__zero_stage": 2, "train__micro_batch_size": 1}, id="4 ranks", marks=pytest.mark.full
        ),
        pytest.param(
            2,
            {"parallel__zero_stage": 2, "parallel__offload": "optimizer", "train__micro_batch_size": 2},
            id="offload",
            marks=pytest.mark.full,
        ),
    ],
)
def test_the_course_is_plain_pytorch_s_at_every_shape(corpus, tmp_path, reference, ranks, changes):
    config = config_of(corpus, tmp_path / "run", **changes)
    check_pretrain(config, ranks)
    assert run_ranks(pretrain, config, ranks) == [0] * ranks
    rows = assert_same_course(tmp_path / "run", reference, 1e-4)
    assert [(row["train/batch_size"], row["train/sequence_length"]) for row in rows] == [
        (size * 32 // length, length) for size, length in SIZES
    ]
    assert [row["tokens"] for row in rows] == [sum(size * 32 for size, _ in SIZES[: n + 1]) for n in range(8)]


def test_a_resume_in_every_stretch_is_exact_and_each_step_s_data_are_told(corpus, tmp_path, capsys):
    length = {"train__steps": None, "train__tokens": 1600}  # 8 steps and a part of one
    assert run_ranks(pretrain, config_of(corpus, tmp_path / "whole", **length), 1) == [0]
    for stop in (2, 5, None):
        changes = {} if stop is None else {"train__stop_at": stop}
        config = config_of(corpus, tmp_path / "cut", **length, **changes)
        assert run_ranks(pretrain, config, 1) == [0 if stop is None else 85]
    whole, cut = read_metrics(tmp_path / "whole"), read_metrics(tmp_path / "cut")
    assert len(whole) == 8
    for key in ("train/loss", "train/grad_norm", "train/lr", "tokens"):
        assert [row[key] for row in whole] == [row[key] for row in cut]
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("whole", "cut")]
    assert histories[0] == histories[1]
    told = read_history(tmp_path / "cut").ramp_in_words(4, 32)
    assert told == "ramp: from step 5: 16 rows of 16; from step 7: 8 rows of 32"
    assert read_history(tmp_path / "cut").ramp_in_words(7, 32) is None
    assert histories[0]["stretches"] == [
        {"step": 0, "position": 0, "batch_size": 4, "length": 8},
        {"step": 3, "position": 12, "batch_size": 8, "length": 8},
        {"step": 4, "position": 20, "batch_size": 8, "length": 16},
        {"step": 6, "position": 36, "batch_size": 8},
    ]
    positions = []
    for step, (size, cut_to) in enumerate(SIZES, start=1):
        assert main(["at", str(tmp_path / "cut"), f"step={step}"]) == 0
        shown = capsys.readouterr().out
        found = re.findall(r"^position ([\d,]+):", shown, re.MULTILINE)
        positions += [int(place.replace(",", "")) for place in found]
        assert len(found) == size
        assert len(re.findall(r"^  part \d+:", shown, re.MULTILINE)) == (0 if cut_to == 32 else size * 32 // cut_to)
        tokens = re.findall(r"tokens ([\d,]+) to ([\d,]+) of", shown)
        spans = [int(last.replace(",", "")) - int(first.replace(",", "")) + 1 for first, last in tokens]
        assert sum(spans) == size * 32
    assert positions == list(range(sum(size for size, _ in SIZES)))


def test_the_rate_decays_by_tokens_where_the_length_is_in_tokens(corpus, tmp_path):
    """Steps of half as many tokens lower it by half as much."""
    by_tokens = config_of(corpus, tmp_path / "run", train__steps=None, train__tokens=1664, schedule__warmup_steps=0)
    by_tokens.schedule.name, by_tokens.schedule.min_ratio = "linear", 0.0
    assert run_ranks(pretrain, by_tokens, 1) == [0]
    rates = [row["train/lr"] for row in read_metrics(tmp_path / "run")]
    consumed = [sum(size for size, _ in SIZES[: n + 1]) for n in range(8)]
    assert rates == pytest.approx([3e-3 * (1 - rows / 52) for rows in consumed])


def test_a_rewind_goes_on_in_the_stretch_that_its_position_is_in():
    ramps = Ramps(8, ((12, 4),))
    history = History([], []).at_steps(step=0, ramps=ramps)
    assert [history.positions_of(step) for step in (3, 4)] == [(8, 12), (12, 20)]
    rewound = history.rewound(Rewind(from_step=3, to_step=1, position=12), ramps)
    assert [rewound.positions_of(step) for step in (1, 2, 3)] == [(0, 4), (12, 20), (20, 28)]
    assert rewound.gaps_before(2) == 8
    assert history.total_steps(tokens=32 * 12, sequence_length=32) == 3
    assert history.total_steps(tokens=32 * 13, sequence_length=32) == 4
    assert rewound.total_steps(tokens=32 * 13, sequence_length=32) == 3


def test_what_a_step_takes_follows_from_where_it_begins():
    ramps = Ramps(8, ((10, 2), (20, 4)), ((13, 64),))
    assert list(islice(ramps.steps(8), 3)) == [(8, StepSize(2, 64)), (10, StepSize(4, 64)), (14, StepSize(4))]
    assert list(ramps.stretches(step=0, position=0)) == [
        (0, 0, StepSize(2, 64)),
        (5, 10, StepSize(4, 64)),
        (6, 14, StepSize(4)),
        (8, 22, StepSize(8)),
    ]
    assert Ramps.of(Train(), config_of("", "").data).lengths == ((13, 8), (29, 16))


def test_a_ramp_that_changes_at_a_resume_must_be_allowed(corpus, tmp_path):
    assert run_ranks(pretrain, config_of(corpus, tmp_path / "run", train__stop_at=2), 1) == [85]
    other = config_of(corpus, tmp_path / "run", data__length_ramp={})
    assert run_ranks(pretrain, other, 1) == [2]
    other.run.allow_change = True
    assert run_ranks(pretrain, other, 1) == [0]
    assert [stretch.length for stretch in read_history(tmp_path / "run").stretches] == [8, None, None]


@pytest.mark.parametrize(
    ("changes", "ranks", "said"),
    [
        ({"train__batch_ramp": {"a": BatchStage(0, 4)}}, 1, "train.batch_ramp.a.until_tokens is not set"),
        ({"train__batch_ramp": {"a": BatchStage(9, 16)}}, 1, "batch_size=16: a ramp leads up to train.batch_size=8"),
        ({"train__batch_ramp": {"a": BatchStage(9, 3)}}, 1, "3 can't be cut into micro-batches of 2 on 1 rank; use a"),
        ({"train__batch_ramp": {"a": BatchStage(9, 2)}}, 2, "2 can't be cut into micro-batches of 2 on 2 ranks; use a"),
        (
            {"train__batch_ramp": {"a": BatchStage(9, 2), "b": BatchStage(9, 4)}},
            1,
            "train.batch_ramp.b.until_tokens=9: train.batch_ramp.a ends there, too",
        ),
        ({"data__length_ramp": {"a": LengthStage(9, 64)}}, 1, "above data.sequence_length=32"),
        ({"data__length_ramp": {"a": LengthStage(9, 12)}}, 1, "can't be cut into that; use one of 1, 2, 4, 8, 16"),
        ({"data__length_ramp": {"a": LengthStage(9, 1)}, "parallel__sequence": 2}, 2, "among parallel.sequence=2"),
        ({"data__length_ramp": {"a": LengthStage(9, 8)}, "data__packing": "whole"}, 1, "whole documents would be cut"),
        ({"data__length_ramp": {"a": LengthStage(9, 8)}, "objective__name": "dpo"}, 1, "objective=dpo"),
    ],
)
def test_a_ramp_that_leads_nowhere_is_refused_in_a_line(changes, ranks, said):
    config = config_of("data", "runs/x", **{"train__batch_ramp": {}, "data__length_ramp": {}} | changes)
    with pytest.raises(ConfigError) as refused:
        check_pretrain(config, ranks)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)

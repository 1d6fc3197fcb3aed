"""Preferences on real ranks: ln 2 at the start, the same course at every stage, and to the bit after kill -9."""

import itertools
import math
import re

import numpy as np
import pytest
import torch

from tests.engine.reference import assert_same_course
from tests.pairs import make_base, preference_config, prepare_pairs, write_pairs
from tests.run_ranks import fail_ranks, pretrain, read_metrics, run_ranks, start_ranks
from tests.states import assert_equal_states
from tests.verbs.test_evaluate import evaluate_into, read_scores, verb
from trainer.config import Checkpoint, Run
from trainer.data.tokens.dataset import open_dataset
from trainer.data.tokens.datasets import open_training
from trainer.errors import BanyanError
from trainer.objective.build import check_datasets, members_of
from trainer.run.frozen_model import check_reference
from trainer.run.speaker import open_speaker

ALWAYS = [(2, 0, 1, "full"), (2, 3, 1, "full")]  # and stage 2, where it is killed
SHAPES = [
    pytest.param(*shape, marks=() if shape in ALWAYS else pytest.mark.full)
    for shape in itertools.product((1, 2), (0, 1, 2, 3), (1, 2, 4), ("full", "lora"))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, pairs with its log-probabilities, and a run on them in one process."""
    folder = tmp_path_factory.mktemp("preferences")
    text, base = make_base(folder)
    source = write_pairs(folder / "pairs.jsonl", 120)
    prepare_pairs(source, folder / "pairs", text, reference=str(base), validation_fraction=0.1)
    for adapt in ("full", "lora"):
        config = configure(folder, folder / adapt, adapt__name=adapt, evaluate__every=6, train__micro_batch_size=8)
        assert run_ranks(pretrain, config, 1) == [0]
    return folder


def configure(folder, run_dir, **changes):
    return preference_config(folder / "pairs", folder / "base", run_dir, **changes)


def course_of(run_dir):
    """(loss, norm) of each step."""
    return [(row["train/loss"], row["train/grad_norm"]) for row in read_metrics(run_dir)]


def test_the_first_loss_is_ln_2_and_then_the_chosen_answers_are_preferred(folder):
    for adapt in ("full", "lora"):
        rows = read_metrics(folder / adapt)
        assert abs(rows[0]["train/loss"] - math.log(2)) < 1e-6
        assert abs(rows[0]["rewards/margins"]) < 1e-5
        assert rows[-1]["train/loss"] < 0.69
        assert rows[-1]["rewards/margins"] == pytest.approx(rows[-1]["rewards/chosen"] - rows[-1]["rewards/rejected"])
    assert read_metrics(folder / "full")[-1]["rewards/accuracies"] > 0.8
    summary = (folder / "full" / "summary.txt").read_text()
    assert "rewards/accuracies" in summary
    assert "pairs)" in summary


@pytest.mark.parametrize(("ranks", "stage", "micro", "adapt"), SHAPES)
def test_the_course_does_not_depend_on_ranks_stage_or_micro_batch(folder, tmp_path, ranks, stage, micro, adapt):
    changes = {"train__micro_batch_size": micro, "parallel__zero_stage": stage, "adapt__name": adapt}
    assert run_ranks(pretrain, configure(folder, tmp_path / "run", **changes), ranks) == [0] * ranks
    alone = read_metrics(folder / adapt)
    rows = assert_same_course(tmp_path / "run", course_of(folder / adapt), 1e-5)
    for row, expected in zip(rows, alone, strict=True):
        assert row["rewards/margins"] == pytest.approx(expected["rewards/margins"], abs=1e-5)
        assert row["tokens"] == expected["tokens"]


@pytest.mark.full
def test_tensor_parallel_ranks_have_the_same_course(folder, tmp_path):
    config = configure(folder, tmp_path / "run", parallel__tensor=2, parallel__zero_stage=1)
    assert run_ranks(pretrain, config, 2) == [0, 0]
    assert_same_course(tmp_path / "run", course_of(folder / "full"), 1e-5)


def test_killed_it_goes_on_to_the_bit(folder, tmp_path):
    changes = {"checkpoint__every": 2, "parallel__zero_stage": 2}
    assert run_ranks(pretrain, configure(folder, tmp_path / "whole", **changes), 2) == [0, 0]
    assert_same_course(tmp_path / "whole", course_of(folder / "full"), 1e-5)
    killed = configure(folder, tmp_path / "killed", **changes)
    ranks = start_ranks(pretrain, killed, 2)
    ranks.kill_once_saved(tmp_path / "killed")
    assert run_ranks(pretrain, killed, 2) == [0, 0]
    assert_equal_states(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data__path": "text"}, "hold no pairs"),
        ({"model__init_from": "full"}, "of other weights"),
        ({"model__init_from": None}, "start from that one by model.init_from"),
        ({"data__path": "bare"}, "hold no log-probabilities of a reference model"),
        ({"train__precision": "bf16"}, "log-probabilities in fp32"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(folder, tmp_path, changes, said):
    if changes.get("data__path") == "bare" and not (folder / "bare").exists():
        prepare_pairs(write_pairs(folder / "bare.jsonl", 20), folder / "bare", folder / "text")
    for key, value in changes.items():
        if value in ("text", "full", "bare") and key != "adapt__name":
            changes = changes | {key: str(folder / value)}
    config = configure(folder, tmp_path / "run", **changes)
    with pytest.raises(BanyanError, match=re.escape(said)) as caught:
        look_before_training(config)
    assert "\n" not in str(caught.value)


def look_before_training(config):
    """What a run does with its data before anything else, on one rank."""
    training = open_training(config.data, config.seed, members_of(config.objective, training=True))
    check_datasets(config.objective, training)
    check_reference(config, [dataset.manifest for dataset in training])


def test_a_run_refuses_pairs_for_another_objective_before_it_begins(folder, tmp_path):
    codes, errors = fail_ranks(pretrain, configure(folder, tmp_path / "run", objective__name="causal"))
    assert codes == [2]
    assert "holds pairs of answers" in errors[0]
    assert not (tmp_path / "run").exists()


def test_a_policy_is_scored_on_plain_text_in_nats_per_token(folder, tmp_path):
    """As the causal model that it is, in rows of the stream."""
    config = verb(folder / "full", path=str(folder / "text" / "train"))
    assert run_ranks(evaluate_into, (config, tmp_path / "scores"), 1) == [0]
    speaker = open_speaker(Run(dir=str(folder / "full")), Checkpoint(), None)
    dataset = open_dataset("text", str(folder / "text"), key="data.path", split="train", sequence_length=96)
    rows = torch.from_numpy(dataset.rows_in_file_order(np.arange(dataset.rows.total)).astype(np.int64))
    with torch.no_grad():
        loss = speaker.model(rows[:, :-1], rows[:, 1:]).double().sum().item() / rows[:, 1:].numel()
    assert read_scores((tmp_path / "scores").read_text())["train"] == pytest.approx(loss, rel=1e-5)

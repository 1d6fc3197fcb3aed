"""Rows spread over ranks give the losses and gradient norms of whole ones."""

import json

import pytest

from tests.engine.reference import assert_same_course, train_plainly
from tests.engine.test_offload import STEPS, configure
from tests.run_ranks import pretrain, run_ranks
from tests.states import assert_equal_states
from trainer.config import ValidationSet


def train(corpus, run_dir, world_size, stage, sequence=2, stop_at=None, **changes):
    config = configure(corpus, run_dir, stage, **changes)
    config.parallel.sequence, config.train.stop_at = sequence, stop_at
    assert run_ranks(pretrain, config, world_size) == [85 if stop_at else 0] * world_size


def eval_losses(run_dir):
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row["eval/validation/loss"] for row in rows if "eval/validation/loss" in row]


@pytest.fixture(scope="module")
def plain(corpus, tmp_path_factory):
    return train_plainly(configure(corpus, tmp_path_factory.mktemp("plain")))


HEADS = {"model__num_key_value_heads": 4}  # which two slices of two parts each have one of


@pytest.fixture(scope="module")
def both(corpus, tmp_path_factory):
    return train_plainly(configure(corpus, tmp_path_factory.mktemp("both"), data__mask_documents=True, **HEADS))


@pytest.fixture(scope="module")
def masked(corpus, tmp_path_factory):
    return train_plainly(configure(corpus, tmp_path_factory.mktemp("masked"), data__mask_documents=True))


def test_run_moved_through_spread_rows_is_plain_pytorch_s(corpus, tmp_path, both):
    for stop_at, (world_size, stage, tensor) in {4: (4, 3, 2), 8: (2, 1, 1), None: (2, 0, 1)}.items():
        changes = {"parallel__tensor": tensor, "data__mask_documents": True, **HEADS}
        train(corpus, tmp_path, world_size, stage, stop_at=stop_at, **changes)
    assert_same_course(tmp_path, both, 1e-5)


@pytest.mark.full
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_spread_rows_of_cut_layers_are_plain_pytorch_s(corpus, tmp_path, both, stage):
    layout = {"parallel__tensor": 2, "data__mask_documents": True, **HEADS}
    train(corpus, tmp_path, 4, stage, **layout)
    assert_same_course(tmp_path, both, 1e-5)


@pytest.mark.full
def test_spread_rows_of_cut_layers_are_judged_as_whole_ones_and_go_on_to_the_bit(corpus, tmp_path):
    sets = {"validation": ValidationSet(str(corpus / "validation"))}
    changes = {"data__validation": sets, "evaluate__every": 6, **HEADS}
    cut = {"parallel__tensor": 2, **changes}
    train(corpus, tmp_path / "alone", 1, 1, sequence=1, **changes)
    train(corpus, tmp_path / "unbroken", 4, 2, **cut)
    train(corpus, tmp_path / "resumed", 4, 2, stop_at=STEPS // 2, **cut)
    train(corpus, tmp_path / "resumed", 4, 2, **cut)
    assert_equal_states(tmp_path / "unbroken", tmp_path / "resumed")
    alone, spread = (eval_losses(tmp_path / name) for name in ("alone", "unbroken"))
    assert spread == pytest.approx(alone, rel=1e-5)


@pytest.mark.full
@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("world_size", [2, 4])
def test_every_stage_with_spread_rows_is_plain_pytorch(corpus, tmp_path, plain, masked, world_size, stage, masks):
    train(corpus, tmp_path, world_size, stage, data__mask_documents=masks)
    assert_same_course(tmp_path, masked if masks else plain, 1e-5)


@pytest.mark.full
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_resume_with_spread_rows_is_the_unbroken_run_to_the_bit(corpus, tmp_path, stage):
    train(corpus, tmp_path / "unbroken", 2, stage)
    train(corpus, tmp_path / "resumed", 2, stage, stop_at=STEPS // 2)
    train(corpus, tmp_path / "resumed", 2, stage)
    assert_equal_states(tmp_path / "unbroken", tmp_path / "resumed")


@pytest.mark.full
@pytest.mark.parametrize("mode", ["full", "selective"])
def test_recomputed_blocks_exchange_again(corpus, tmp_path, plain, mode):
    train(corpus, tmp_path, 2, 2, train__activation_checkpointing=mode)
    assert_same_course(tmp_path, plain, 1e-5)


@pytest.mark.full
@pytest.mark.parametrize("changes", [{"parallel__hpz": 2}, {"parallel__offload": "all"}])
def test_spread_rows_go_with_other_layouts(corpus, tmp_path, plain, changes):
    config = configure(corpus, tmp_path, 3)
    config.parallel.sequence = 2
    for key, value in changes.items():
        section, name = key.split("__")
        setattr(getattr(config, section), name, value)
    assert run_ranks(pretrain, config, 4) == [0] * 4
    assert_same_course(tmp_path, plain, 1e-5)


@pytest.mark.full
def test_evaluation_of_spread_rows_is_that_of_whole_ones(corpus, tmp_path):
    sets = {"validation": ValidationSet(str(corpus / "validation"))}
    losses = []
    for world_size, sequence in ((1, 1), (4, 2)):
        folder = tmp_path / str(world_size)
        train(corpus, folder, world_size, 1, sequence, data__validation=sets, evaluate__every=6)
        losses.append(eval_losses(folder))
    assert len(losses[0]) == 2
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


@pytest.mark.full
def test_spread_rows_in_bf16_stay_near_fp32(corpus, tmp_path, plain):
    train(corpus, tmp_path, 2, 1, train__precision="bf16")
    assert_same_course(tmp_path, plain, 1e-2)

"""Tensor parallelism, with every ZeRO stage, gives the losses and norms of one process."""

import pytest

from tests.engine.reference import train_plainly
from tests.ranks import pretrain, read_metrics, run_ranks, small_config

TOLERANCE = 1e-4
# Heads that four ranks can share; norms on them, whose gradients are partial on each rank; an uneven vocabulary.
MODEL = {"model__num_key_value_heads": 4, "model__qk_norm": True, "model__vocab_size": 303}


@pytest.fixture(scope="module")
def reference(corpus, tmp_path_factory):
    return train_plainly(small_config(corpus, tmp_path_factory.mktemp("reference"), **MODEL))


def assert_parity(corpus, run_dir, reference, *, data, tensor, stage, **changes):
    config = small_config(corpus, run_dir, parallel__zero_stage=stage, parallel__tensor=tensor, **MODEL, **changes)
    ranks = data * tensor
    assert run_ranks(pretrain, config, ranks) == [0] * ranks
    rows = read_metrics(run_dir)
    assert [row["train/loss"] for row in rows] == pytest.approx([loss for loss, _ in reference], rel=TOLERANCE)
    assert [row["train/grad_norm"] for row in rows] == pytest.approx([norm for _, norm in reference], rel=TOLERANCE)


@pytest.mark.parametrize(("data", "tensor", "stage"), [(1, 2, 0), (2, 2, 1), (1, 2, 2), (2, 2, 3)])
def test_losses_and_norms_equal_plain_pytorch(corpus, tmp_path, reference, data, tensor, stage):
    assert_parity(corpus, tmp_path / "run", reference, data=data, tensor=tensor, stage=stage)


@pytest.mark.full
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("tensor", [2, 4])
@pytest.mark.parametrize("data", [1, 2])
def test_every_shape(corpus, tmp_path, reference, data, tensor, stage):
    assert_parity(corpus, tmp_path / "run", reference, data=data, tensor=tensor, stage=stage)

"""Losses and gradient norms don't depend on world size or ZeRO stage, and are plain PyTorch's."""

import pytest

from tests.engine.reference import train_plainly
from tests.ranks import pretrain, read_metrics, run_ranks, small_config

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def reference(corpus, tmp_path_factory):
    return train_plainly(small_config(corpus, tmp_path_factory.mktemp("reference")))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_losses_and_norms_equal_plain_pytorch(corpus, tmp_path, reference, world_size, stage):
    config = small_config(corpus, tmp_path / "run", parallel__zero_stage=stage)
    assert run_ranks(pretrain, config, world_size) == [0] * world_size
    rows = read_metrics(tmp_path / "run")
    assert [row["train/loss"] for row in rows] == pytest.approx([loss for loss, _ in reference], rel=TOLERANCE)
    assert [row["train/grad_norm"] for row in rows] == pytest.approx([norm for _, norm in reference], rel=TOLERANCE)

"""Losses and gradient norms don't depend on world size or ZeRO stage, and are plain PyTorch's."""

import pytest

from tests.engine.reference import assert_same_course, train_plainly
from tests.ranks import pretrain, run_ranks, small_config

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def reference(corpus, tmp_path_factory):
    return train_plainly(small_config(corpus, tmp_path_factory.mktemp("reference")))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_losses_and_norms_equal_plain_pytorch(corpus, tmp_path, reference, world_size, stage):
    config = small_config(corpus, tmp_path / "run", parallel__zero_stage=stage)
    assert run_ranks(pretrain, config, world_size) == [0] * world_size
    assert_same_course(tmp_path / "run", reference, TOLERANCE)

"""Experts: losses and gradient norms are plain PyTorch's at any shape, runs move between shapes, the load is logged."""

import pytest

from tests.engine.reference import assert_same_course, train_plainly
from tests.run_ranks import pretrain, run_ranks, small_config

TOLERANCE = 1e-4
STEPS = 8
EXPERTS = {
    "model__num_experts": 6,
    "model__num_experts_per_tok": 2,
    "model__moe_intermediate_size": 40,
    "model__qk_norm": True,
    "model__router_aux_loss_coef": 0.1,  # large, so that a wrong scale would show
    "model__router_z_loss_coef": 0.01,
    "train__steps": STEPS,
}
SAMPLE = ((2, 1), (2, 3))


@pytest.fixture(scope="module")
def reference(corpus, tmp_path_factory):
    return train_plainly(small_config(corpus, tmp_path_factory.mktemp("reference"), **EXPERTS))


@pytest.mark.parametrize(
    ("world_size", "stage"),
    [
        pytest.param(world_size, stage, marks=() if (world_size, stage) in SAMPLE else pytest.mark.full)
        for world_size in (1, 2, 4)
        for stage in range(4)
    ],
)
def test_losses_and_norms_equal_plain_pytorch(corpus, tmp_path, reference, world_size, stage):
    config = small_config(corpus, tmp_path / "run", parallel__zero_stage=stage, **EXPERTS)
    if (world_size, stage) == (2, 3):
        config.train.activation_checkpointing = "full"
    assert run_ranks(pretrain, config, world_size) == [0] * world_size
    assert_same_course(tmp_path / "run", reference, TOLERANCE)


def test_run_moved_to_another_shape_is_unbroken_and_logs_the_load(corpus, tmp_path, reference):
    run_dir = tmp_path / "run"
    for world_size, stage, stop_at in ((2, 3, STEPS // 2), (1, 0, None)):
        config = small_config(corpus, run_dir, parallel__zero_stage=stage, train__stop_at=stop_at, **EXPERTS)
        if stop_at is None:
            config.evaluate.every, config.evaluate.prompt, config.evaluate.prompt_tokens = STEPS, "the", 4
        assert run_ranks(pretrain, config, world_size) == [0 if stop_at is None else 85] * world_size
    rows = assert_same_course(run_dir, reference, 1e-5)
    for row in rows:
        assert 0 <= row["moe/load_min"] < 1 < row["moe/load_max"] <= 6
        assert 0.9 < row["moe/balance_loss"] < 6
        assert row["moe/router_z_loss"] > 0
    assert "sample:" in (run_dir / "summary.txt").read_text()
    log = (run_dir / "logs" / "rank-00000.log").read_text()
    assert "Traceback" not in log

"""State on NVMe trains, is saved and is moved like any other. Needs libaio-dev, and minutes to build the op once."""

from pathlib import Path

import pytest

from tests.engine.reference import assert_same_course, train_plainly
from tests.run_ranks import pretrain, run_ranks, small_config
from tests.states import assert_equal_states
from trainer.config import Parallel
from trainer.engine.deepspeed.offload import load_nvme_op
from trainer.errors import ConfigError

STEPS = 6
TOLERANCE = 1e-4  # the model is larger than other tests', for DeepSpeed leaves what is below 1 MiB in memory

needs_libaio = pytest.mark.skipif(not Path("/usr/include/libaio.h").exists(), reason="libaio-dev isn't installed")


def configure(corpus, run_dir, precision="fp32"):
    config = small_config(corpus, run_dir, train__steps=STEPS, train__gradient_clipping=0.5)
    config.model.hidden_size, config.model.intermediate_size = 512, 1024
    config.train.precision, config.optimizer.lr = precision, 1e-3
    return config


def move(corpus, run_dir, layouts, **changes):
    """Trains STEPS steps in equal legs, each at the next (world size, stage, offload, device)."""
    for number, (world_size, stage, offload, device) in enumerate(layouts, start=1):
        config = configure(corpus, run_dir, **changes)
        config.parallel = Parallel(zero_stage=stage, offload=offload, offload_device=device)
        config.parallel.nvme_path = str(run_dir / "nvme") if device == "nvme" else None
        last = number == len(layouts)
        config.train.stop_at = None if last else number * STEPS // len(layouts)
        assert run_ranks(pretrain, config, world_size) == [0 if last else 85] * world_size


@pytest.fixture(scope="module")
def plain(corpus, tmp_path_factory):
    return train_plainly(configure(corpus, tmp_path_factory.mktemp("plain")))


def test_nvme_without_libaio_is_refused_at_the_start(monkeypatch, tmp_path):
    from deepspeed.ops.op_builder import AsyncIOBuilder

    monkeypatch.setattr(AsyncIOBuilder, "is_compatible", lambda self: False)
    with pytest.raises(ConfigError, match="install libaio-dev"):
        load_nvme_op(Parallel(offload="all", offload_device="nvme", nvme_path=str(tmp_path)))


def test_folder_of_another_run_is_refused(monkeypatch, tmp_path):
    from deepspeed.ops.op_builder import AsyncIOBuilder

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(AsyncIOBuilder, "is_compatible", lambda self: True)
    monkeypatch.setattr(AsyncIOBuilder, "load", lambda self: None)
    parallel = Parallel(offload="all", offload_device="nvme", nvme_path=str(tmp_path))
    load_nvme_op(parallel)
    with pytest.raises(ConfigError, match="in use by another run"):
        load_nvme_op(parallel)


@needs_libaio
@pytest.mark.full
def test_run_that_goes_through_nvme_is_plain_pytorch_s(corpus, tmp_path, plain):
    layouts = [(2, 3, "optimizer", "nvme"), (1, 3, "all", "nvme"), (1, 0, "none", "cpu")]
    move(corpus, tmp_path, layouts)
    assert_same_course(tmp_path, plain, TOLERANCE)
    assert list((tmp_path / "nvme").rglob("exp_avg_sq*"))
    assert list((tmp_path / "nvme").rglob("*_param.tensor.swp"))


@needs_libaio
@pytest.mark.full
def test_run_that_comes_to_nvme_is_plain_pytorch_s(corpus, tmp_path, plain):
    move(corpus, tmp_path, [(1, 1, "optimizer", "cpu"), (2, 3, "all", "nvme")])
    assert_same_course(tmp_path, plain, TOLERANCE)


@needs_libaio
@pytest.mark.full
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("offload", ["optimizer", "all"])
def test_resume_on_nvme_is_the_unbroken_run_to_the_bit(corpus, tmp_path, plain, offload, precision):
    layout = (2, 3, offload, "nvme")
    move(corpus, tmp_path / "unbroken", [layout], precision=precision)
    move(corpus, tmp_path / "resumed", [layout, layout], precision=precision)
    assert_equal_states(tmp_path / "unbroken", tmp_path / "resumed")
    assert_same_course(tmp_path / "unbroken", plain, TOLERANCE if precision == "fp32" else 2e-2)

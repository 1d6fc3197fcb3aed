"""Offloaded state trains, is saved and is moved like any other."""

import pytest

from tests.engine.reference import assert_same_course, train_plainly
from tests.run_ranks import pretrain, run_ranks, small_config
from tests.states import assert_equal_states

STEPS = 12
ALL = [(1, "optimizer"), (2, "optimizer"), (3, "optimizer"), (3, "all")]


def configure(corpus, run_dir, stage=0, offload="none", **changes):
    config = small_config(corpus, run_dir, train__steps=STEPS, train__gradient_clipping=0.5, **changes)
    config.parallel.zero_stage, config.parallel.offload = stage, offload
    return config


def move(corpus, run_dir, layouts, **changes):
    """Trains STEPS steps in equal legs, each at the next (world size, stage, offload)."""
    for number, (world_size, stage, offload) in enumerate(layouts, start=1):
        config = configure(corpus, run_dir, stage, offload, **changes)
        last = number == len(layouts)
        config.train.stop_at = None if last else number * STEPS // len(layouts)
        assert run_ranks(pretrain, config, world_size) == [0 if last else 85] * world_size


@pytest.fixture(scope="module")
def plain(corpus, tmp_path_factory):
    return train_plainly(configure(corpus, tmp_path_factory.mktemp("plain")))


def test_run_that_goes_in_and_out_of_host_memory_is_plain_pytorch_s(corpus, tmp_path, plain):
    move(corpus, tmp_path, [(2, 3, "all"), (2, 1, "optimizer"), (1, 0, "none"), (2, 2, "optimizer")])
    assert_same_course(tmp_path, plain, 1e-5)


def test_resume_under_offload_is_the_unbroken_run_to_the_bit(corpus, tmp_path):
    move(corpus, tmp_path / "unbroken", [(1, 3, "all")])
    move(corpus, tmp_path / "resumed", [(1, 3, "all"), (1, 3, "all")])
    assert_equal_states(tmp_path / "unbroken", tmp_path / "resumed")


@pytest.mark.full
@pytest.mark.parametrize(("stage", "offload"), ALL)
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_offloaded_layout_is_plain_pytorch(corpus, tmp_path, plain, world_size, stage, offload):
    move(corpus, tmp_path, [(world_size, stage, offload)])
    assert_same_course(tmp_path, plain, 1e-5)


@pytest.mark.full
@pytest.mark.parametrize(("stage", "offload"), ALL)
def test_offload_goes_with_tensor_parallelism(corpus, tmp_path, plain, stage, offload):
    move(corpus, tmp_path, [(4, stage, offload), (2, stage, offload)], parallel__tensor=2)
    assert_same_course(tmp_path, plain, 1e-5)


@pytest.mark.full
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("stage", "offload"), ALL)
def test_every_resume_is_the_unbroken_run_to_the_bit(corpus, tmp_path, stage, offload, precision):
    layout = (2, stage, offload)
    move(corpus, tmp_path / "unbroken", [layout], train__precision=precision)
    move(corpus, tmp_path / "resumed", [layout, layout], train__precision=precision)
    assert_equal_states(tmp_path / "unbroken", tmp_path / "resumed")


@pytest.mark.full
@pytest.mark.parametrize("before", [(0, "none"), (3, "none"), *ALL])
@pytest.mark.parametrize("after", [(0, "none"), (3, "none"), *ALL])
def test_every_pair_of_layouts(corpus, tmp_path, plain, before, after):
    move(corpus, tmp_path, [(2, *before), (1, *after)])
    assert_same_course(tmp_path, plain, 1e-5)


@pytest.mark.full
@pytest.mark.parametrize(("stage", "offload"), ALL)
def test_bf16_under_offload_stays_near_fp32(corpus, tmp_path, plain, stage, offload):
    move(corpus, tmp_path, [(2, stage, offload)], train__precision="bf16")
    assert_same_course(tmp_path, plain, 1e-2)

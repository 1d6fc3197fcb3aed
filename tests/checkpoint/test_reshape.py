"""A run moved from shape to shape by overrides alone is the unbroken run, to float reduction error."""

import pytest

from tests.engine.reference import assert_same_course, train_plainly
from tests.run_ranks import pretrain, run_ranks, small_config

TOLERANCE = 1e-5
STEPS = 12


def move(corpus, run_dir, shapes, **changes):
    """Trains STEPS steps in equal legs, each at the next (world size, stage) or (world size, stage, tensor degree)."""
    leg = STEPS // len(shapes)
    for number, (world_size, stage, *tensor) in enumerate(shapes, start=1):
        last = number == len(shapes)
        config = small_config(corpus, run_dir, train__steps=STEPS, parallel__zero_stage=stage, **changes)
        config.parallel.tensor = tensor[0] if tensor else 1
        config.train.stop_at = None if last else number * leg
        assert run_ranks(pretrain, config, world_size) == [0 if last else 85] * world_size


@pytest.fixture(scope="module")
def unbroken(corpus, tmp_path_factory):
    return train_plainly(small_config(corpus, tmp_path_factory.mktemp("plain"), train__steps=STEPS))


@pytest.mark.full
def test_run_moved_through_shapes_agrees_with_unbroken_run(corpus, tmp_path, unbroken):
    move(corpus, tmp_path / "run", [(1, 0), (4, 3), (2, 2), (1, 1)])
    assert_same_course(tmp_path / "run", unbroken, TOLERANCE)


def test_run_moved_through_tensor_degrees_agrees_with_unbroken_run(corpus, tmp_path, unbroken):
    move(corpus, tmp_path / "run", [(1, 0), (4, 3), (4, 1, 2), (2, 2)])
    assert_same_course(tmp_path / "run", unbroken, TOLERANCE)


@pytest.mark.full
@pytest.mark.parametrize("before", [(w, z) for w in (1, 2, 4) for z in range(4)])
@pytest.mark.parametrize("after", [(w, z) for w in (1, 2, 4) for z in range(4)])
def test_every_pair_of_shapes(corpus, tmp_path, unbroken, before, after):
    move(corpus, tmp_path / "run", [before, after])
    assert_same_course(tmp_path / "run", unbroken, TOLERANCE)

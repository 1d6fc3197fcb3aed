"""ZeRO++ hpZ: a second copy of stage 3's weights within a group of ranks changes no number."""

import pytest

from tests.engine.reference import assert_same_course, train_plainly
from tests.engine.test_offload import STEPS, configure
from tests.run_ranks import pretrain, run_ranks
from tests.states import assert_equal_states


def train(corpus, run_dir, *, stop_at=None, offload="none", hpz=2, **changes):
    config = configure(corpus, run_dir, 3, offload, **changes)
    config.parallel.hpz, config.train.stop_at = hpz, stop_at
    assert run_ranks(pretrain, config, 4) == [85 if stop_at else 0] * 4


@pytest.fixture(scope="module")
def plain(corpus, tmp_path_factory):
    return train_plainly(configure(corpus, tmp_path_factory.mktemp("plain")))


def test_weights_copied_within_groups_are_never_stale(corpus, tmp_path, plain):
    train(corpus, tmp_path, stop_at=STEPS // 2, evaluate__every=3)
    train(corpus, tmp_path)
    assert_same_course(tmp_path, plain, 1e-5)


@pytest.mark.full
@pytest.mark.parametrize("offload", ["none", "optimizer", "all"])
def test_resume_with_hpz_is_the_unbroken_run_to_the_bit(corpus, tmp_path, plain, offload):
    train(corpus, tmp_path / "unbroken", offload=offload)
    train(corpus, tmp_path / "resumed", offload=offload, stop_at=STEPS // 2)
    train(corpus, tmp_path / "resumed", offload=offload)
    assert_same_course(tmp_path / "unbroken", plain, 1e-5)
    assert_equal_states(tmp_path / "unbroken", tmp_path / "resumed")


@pytest.mark.full
def test_hpz_can_be_turned_on_and_off(corpus, tmp_path, plain):
    train(corpus, tmp_path, hpz=1, stop_at=4)
    train(corpus, tmp_path, hpz=4, stop_at=8)
    train(corpus, tmp_path, hpz=1)
    assert_same_course(tmp_path, plain, 1e-5)

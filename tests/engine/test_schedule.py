"""Learning rates over a run."""

import pytest

from trainer.config import Schedule
from trainer.engine.schedule import learning_rate


def rates(name, total=100, **changes):
    schedule = Schedule(name=name, **{"warmup_steps": 10, "min_ratio": 0.1, "decay_fraction": 0.2, **changes})
    return [learning_rate(schedule, peak=2.0, step=step, total_steps=total) for step in range(1, total + 1)]


@pytest.mark.parametrize("name", ["cosine", "linear", "constant", "wsd"])
def test_warm_up_is_linear_to_the_peak(name):
    assert rates(name)[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert max(rates(name)) == pytest.approx(2.0)


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd"])
def test_decay_ends_at_the_least_rate_and_never_rises(name):
    after = rates(name)[9:]
    assert after[-1] == pytest.approx(0.2)
    assert after == sorted(after, reverse=True)


def test_cosine_is_half_way_down_in_the_middle():
    assert rates("cosine")[54] == pytest.approx(1.1)


def test_constant_stays_and_wsd_decays_only_at_the_end():
    assert set(rates("constant")[10:]) == {2.0}
    assert set(rates("wsd")[10:80]) == {2.0}
    assert rates("wsd")[89] == pytest.approx(1.1)


def test_no_warm_up_begins_at_the_peak():
    assert rates("constant", warmup_steps=0)[0] == 2.0

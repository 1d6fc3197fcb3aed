"""Learning rates over a run."""

import pytest

from trainer.config import Schedule
from trainer.engine.schedule import scheduled_rate


def rates(name, total=100, **changes):
    schedule = Schedule(name=name, **{"warmup_steps": 10, "min_ratio": 0.1, "decay_fraction": 0.2, **changes})
    return [scheduled_rate(schedule, peak=2.0, step=step, total_steps=total) for step in range(1, total + 1)]


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


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd"])
def test_by_sequences_the_decay_goes_on_where_it_was_when_the_batch_size_changes(name):
    def pace(step):  # batches of 4, of 8 after step 50: 400 sequences, as in 100 steps of 4
        return 4 * step + 4 * max(0, step - 50)

    schedule = Schedule(name=name, warmup_steps=10, min_ratio=0.1, decay_fraction=0.2)
    mixed = [scheduled_rate(schedule, peak=2.0, step=step, total_steps=75, pace=pace) for step in range(1, 76)]
    assert mixed[:50] == pytest.approx(rates(name)[:50])
    assert mixed[-1] == pytest.approx(0.2)
    if name != "wsd":  # whose decay is a share of the steps
        assert mixed[50:] == pytest.approx(rates(name)[51::2])


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd"])
@pytest.mark.parametrize("total", [1, 5, 97])
def test_by_sequences_of_one_batch_size_rates_are_those_by_steps_to_the_bit(name, total):
    schedule = Schedule(name=name, warmup_steps=10)
    for step in range(1, total + 1):
        ours = scheduled_rate(schedule, peak=3e-4, step=step, total_steps=total, pace=lambda step: 12 * step)
        assert ours == scheduled_rate(schedule, peak=3e-4, step=step, total_steps=total)

"""The rule of spikes: OLMo-core's, on logged values, the same after a restart."""

import math
import random
import statistics

import pytest
import torch

from trainer.engine.spike_window import SpikeWindow
from trainer.track.spikes import SpikeRule, SpikeWatch

RULES = [SpikeRule(), SpikeRule(sigma=3.0, window=20)]


@pytest.mark.parametrize("rule", RULES)
def test_the_limit_is_mean_and_sigmas_of_the_last_values(rule):
    values = [random.Random(n).gauss(3.0, 0.1) for n in range(400)]
    window = values[-rule.window :]
    expected = statistics.mean(window) + rule.sigma * statistics.stdev(window)
    assert math.isclose(rule.limit(values), expected, rel_tol=1e-12)
    assert rule.limit(values[: rule.window // 2 - 1]) == math.inf
    assert math.isfinite(rule.limit(values[: rule.window // 2]))


def test_the_defaults_are_olmo_cores():
    assert SpikeRule() == SpikeRule(sigma=6.0, window=128)
    assert SpikeRule().needed == 64


@pytest.mark.parametrize("rule", RULES)
def test_the_device_has_the_same_verdicts(rule):
    values = [row["train/loss"] for row in rows(300)]
    for place in (9, 10, 64, 65, 150, 152, 299):
        values[place] += 1.0
    watch, window = SpikeWatch(rule, every=1), SpikeWindow(rule, torch.device("cpu"))
    logged = [bool(watch.judge({"step": step, "train/loss": value})) for step, value in enumerate(values)]
    judged = [bool(window.judge(torch.tensor(value, dtype=torch.float64))) for value in values]
    assert logged == judged
    assert 2 <= sum(logged) < 8


def test_a_constant_is_no_spike_over_itself():
    for value in (0.1, 3.3, 1e9):
        assert SpikeRule().limit([value] * 77) == value


def rows(count):
    draw = random.Random(7)
    return [
        {"step": step, "train/loss": 3 + draw.gauss(0, 0.05), "train/grad_norm": 1 + draw.gauss(0, 0.1)}
        for step in range(1, count + 1)
    ]


def test_a_planted_spike_of_loss_or_norm_is_found_and_nothing_else():
    logged = rows(300)
    logged[199]["train/loss"] = 9.0
    logged[249]["train/grad_norm"] = 40.0
    watch = SpikeWatch(SpikeRule(), every=1)
    found = {row["step"]: set(limits) for row in logged if (limits := watch.judge(row))}
    assert found == {200: {"train/loss"}, 250: {"train/grad_norm"}}


def test_after_a_restart_at_any_row_the_same_rows_are_spikes():
    logged = rows(260)
    logged[150]["train/loss"] = 9.0
    logged[219]["train/loss"] = 9.0
    whole = SpikeWatch(SpikeRule(), every=1)
    verdicts = [whole.judge(row) for row in logged]
    for cut in (10, 63, 64, 151, 219):
        again = SpikeWatch(SpikeRule(), every=1, rows=logged[:cut])
        assert [again.judge(row) for row in logged[cut:]] == verdicts[cut:]


def test_the_row_of_a_stop_between_logged_steps_changes_nothing():
    logged = [{**row, "step": 10 * row["step"]} for row in rows(100)]
    stopped = [*logged[:80], {"step": 805, "train/loss": 50.0, "train/grad_norm": 50.0}]
    again, whole = SpikeWatch(SpikeRule(), every=10, rows=stopped), SpikeWatch(SpikeRule(), every=10, rows=logged[:80])
    assert [again.judge(row) for row in logged[80:]] == [whole.judge(row) for row in logged[80:]]

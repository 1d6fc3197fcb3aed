"""The rule of spikes: OLMo-core's, on logged values, the same after a restart."""

import math
import random
import statistics

from trainer.track.spikes import NEEDED, SIGMAS, WINDOW, SpikeWatch, spike_limit


def test_the_limit_is_mean_and_six_sigma_of_the_last_128():
    values = [random.Random(n).gauss(3.0, 0.1) for n in range(400)]
    window = values[-WINDOW:]
    assert math.isclose(spike_limit(values), statistics.mean(window) + SIGMAS * statistics.stdev(window), rel_tol=1e-12)
    assert spike_limit(values[: NEEDED - 1]) == math.inf
    assert math.isfinite(spike_limit(values[:NEEDED]))


def test_a_constant_is_no_spike_over_itself():
    for value in (0.1, 3.3, 1e9):
        assert spike_limit([value] * 77) == value


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
    watch = SpikeWatch(every=1)
    found = {row["step"]: set(limits) for row in logged if (limits := watch.judge(row))}
    assert found == {200: {"train/loss"}, 250: {"train/grad_norm"}}


def test_after_a_restart_at_any_row_the_same_rows_are_spikes():
    logged = rows(260)
    logged[150]["train/loss"] = 9.0
    logged[219]["train/loss"] = 9.0
    whole = SpikeWatch(every=1)
    verdicts = [whole.judge(row) for row in logged]
    for cut in (10, 63, 64, 151, 219):
        again = SpikeWatch(every=1, rows=logged[:cut])
        assert [again.judge(row) for row in logged[cut:]] == verdicts[cut:]


def test_the_row_of_a_stop_between_logged_steps_changes_nothing():
    logged = [{**row, "step": 10 * row["step"]} for row in rows(100)]
    stopped = [*logged[:80], {"step": 805, "train/loss": 50.0, "train/grad_norm": 50.0}]
    again, whole = SpikeWatch(every=10, rows=stopped), SpikeWatch(every=10, rows=logged[:80])
    assert [again.judge(row) for row in logged[80:]] == [whole.judge(row) for row in logged[80:]]

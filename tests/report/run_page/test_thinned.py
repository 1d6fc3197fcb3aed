"""Two million rows in bounded memory: what stands out is still there, and nothing that wasn't logged."""

import json
import tracemalloc

import pytest

from trainer.errors import InputError
from trainer.report.run_page.journal import MOST_MOMENTS, RunSeries, read_series
from trainer.report.run_page.thinned import CHUNK, MOST_STRETCHES, Thinned

SPIKE = 54_321


def loss_at(step):
    return 9.5 if step == SPIKE else 3.0 + (step * 7919 % 1000) / 1e4


def test_few_rows_are_all_there():
    series = Thinned()
    for step in range(1, 1001):
        series.add(step, loss_at(step))
    assert series.width == 1
    assert series.points() == [(step, loss_at(step)) for step in range(1, 1001)]


def test_a_single_row_that_stands_out_survives_and_every_point_was_logged():
    series, rows = Thinned(), 150_000
    for step in range(1, rows + 1):
        series.add(step, loss_at(step))
    points = series.points()
    assert max(points, key=lambda point: point[1]) == (SPIKE, 9.5)
    assert min(value for _, value in points) == min(loss_at(step) for step in range(1, rows + 1))
    assert all(value == loss_at(step) for step, value in points)
    assert points[0][0] == 1
    assert points[-1][0] == rows
    assert MOST_STRETCHES / 2 <= len(series.means()) <= MOST_STRETCHES
    mean = sum(loss_at(step) for step in range(1, series.width + 1)) / series.width
    assert series.means()[0][1] == pytest.approx(mean)


def test_values_that_are_not_finite_are_counted_and_left_out():
    series = Thinned()
    for step, value in enumerate([1.0, None, float("nan"), float("inf"), 2.0]):
        series.add(step, value)
    assert series.points() == [(0, 1.0), (4, 2.0)]
    assert series.missing == 3


def test_memory_doesnt_grow_with_rows():
    def peak(rows):
        tracemalloc.start()
        series = RunSeries()
        for step in range(1, rows + 1):
            series.add({"step": step, "tokens": step, "time": float(step), "train/loss": loss_at(step)})
        assert len(series.moments.rows()) <= 2 * MOST_MOMENTS
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = CHUNK, 3 * CHUNK
    assert peak(many) < 1.3 * peak(few)


def test_a_torn_last_line_is_left_out_and_any_other_refused(tmp_path):
    row = json.dumps({"step": 1, "tokens": 2, "time": 3.0, "train/loss": 4.0})
    (tmp_path / "metrics.jsonl").write_text(f'{row}\n{{"step": 2, "tok')
    assert read_series(tmp_path).rows == 1
    for bad in ("[]", "{", '{"step": -1}', '{"step": 1, "tokens": "x"}', "[" * 10**5):
        (tmp_path / "metrics.jsonl").write_text(f"{row}\n{bad}\n{row}\n")
        with pytest.raises(InputError, match="line 2: not a JSON row"):
            read_series(tmp_path)


def test_metrics_without_end_are_bounded():
    series = RunSeries()
    for step in range(30):
        names = {f"made/up/{step}/{number}": 1.0 for number in range(100)}
        series.add({"step": step, "tokens": 0, "time": 0.0, "x" * 1000: 1.0, **names})
    assert len(series.metrics) == 1000
    assert series.left_out

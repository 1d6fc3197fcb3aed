import math
import struct
import sys

import pytest

from trainer.report.curves import _draw_losses, draw_curves, readable_count, smooth
from trainer.track.sinks.journal import METRICS, Journal, metric_row, read_metrics


def write_metrics(run_dir, rows):
    journal = Journal(run_dir / METRICS)
    for step in range(1, rows + 1):
        metrics = {"train/loss": math.nan if step == 7 else 8.0 / step, "train/lr": 1e-3 / step}
        if step % 10 == 0:
            metrics["eval/validation/loss"] = 9.0 / step
        journal.write(metric_row(step=step, tokens=step * 8192, metrics=metrics))
    journal.close()


@pytest.mark.parametrize("rows", [0, 1, 60])
def test_a_png_of_a_sensible_size_comes_of_any_number_of_rows(tmp_path, rows):
    write_metrics(tmp_path, rows)
    path = draw_curves(tmp_path)
    content = path.read_bytes()
    assert path == tmp_path / "loss.png"
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", content[16:24]) == (1350, 900)
    assert 10_000 < len(content) < 300_000
    assert {entry.name for entry in tmp_path.iterdir()} == {METRICS, "loss.png"}


def test_the_axis_says_what_the_objective_s_losses_are_in(tmp_path):
    from matplotlib.figure import Figure

    write_metrics(tmp_path, 3)
    axes = Figure().subplots()
    _draw_losses(axes, read_metrics(tmp_path), "nats per pair")
    assert axes.get_ylabel() == "loss (nats per pair)"


def test_drawing_leaves_pyplot_alone(tmp_path):
    write_metrics(tmp_path, 3)
    loaded = "matplotlib.pyplot" in sys.modules
    draw_curves(tmp_path)
    assert ("matplotlib.pyplot" in sys.modules) == loaded


def test_smoothing_follows_a_line_without_lag_and_skips_nan():
    line = [float(value) for value in range(50, 0, -1)]
    assert smooth(line, half_width=5) == pytest.approx(line)
    assert smooth([1.0, math.nan, 3.0], half_width=1) == pytest.approx([1.0, 2.0, 3.0])
    assert math.isnan(smooth([math.nan], half_width=3)[0])


@pytest.mark.parametrize(
    ("tokens", "text"), [(0, "0"), (500, "500"), (1500, "1.5K"), (20_000_000, "20M"), (3e9, "3B"), (1.2e12, "1.2T")]
)
def test_token_counts_are_readable(tokens, text):
    assert readable_count(tokens) == text

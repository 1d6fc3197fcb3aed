"""loss.png: the loss curves of a run, drawn from its metrics.jsonl."""

from __future__ import annotations

import math
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.track.sinks.journal import Row, read_metrics

if TYPE_CHECKING:
    import matplotlib.axes

SMOOTHED_SHARE = 1 / 40  # of the rows, on either side of the one being smoothed
TRAIN_COLOUR = "#4c72b0"
EVAL_COLOURS = ("#dd5143", "#2f9e64", "#8a63b8", "#c98a1b", "#2a9db5", "#8c5a3c")
LR_COLOUR = "#777777"
MARGINS = {"left": 0.08, "right": 0.985, "bottom": 0.085, "top": 0.925, "hspace": 0.16}
"""Fixed ones: to find them, matplotlib would draw everything three times over at the end of each run."""


def draw_curves(run_dir: Path, title: str | None = None, *, scale: str = "nats per token") -> Path:
    """Draws training and evaluation losses over tokens, with the learning rate below, into `run_dir`/loss.png.

    `scale` is what the objective's losses are in. Works with any number of rows, none included. Leaves matplotlib's
    global state (pyplot, backend) alone.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_metrics(run_dir)
    figure = Figure(figsize=(9, 6), dpi=150)
    canvas = FigureCanvasAgg(figure)
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1), gridspec_kw=MARGINS)
    figure.suptitle(title or run_dir.resolve().name, fontsize=13, fontweight="bold")
    _draw_losses(losses, rows, scale)
    _draw_learning_rate(rates, rows)
    for axes in (losses, rates):
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    path = run_dir / "loss.png"
    temporary = path.with_name("loss.png.partial")
    canvas.print_png(temporary)
    temporary.replace(path)
    return path


def smooth(values: list[float], half_width: int) -> list[float]:
    """Centred moving average over 2·half_width + 1 values, so that it doesn't lag behind a falling loss.

    The window narrows towards both ends and stays symmetric. NaN and infinities are left out of it.
    """
    sums = list(accumulate((value if math.isfinite(value) else 0.0 for value in values), initial=0.0))
    counts = list(accumulate((int(math.isfinite(value)) for value in values), initial=0))
    smoothed = []
    for middle in range(len(values)):
        reach = min(half_width, middle, len(values) - 1 - middle)
        first, end = middle - reach, middle + reach + 1
        count = counts[end] - counts[first]
        smoothed.append((sums[end] - sums[first]) / count if count else math.nan)
    return smoothed


def readable_count(tokens: float, _position: float | None = None) -> str:
    """A count for an axis: 0, 500, 1.5K, 20M, 3B, 1.2T."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(tokens) >= size:
            return f"{tokens / size:.3g}{unit}"
    return f"{tokens:.0f}"


def _draw_losses(axes: matplotlib.axes.Axes, rows: list[Row], scale: str) -> None:
    tokens, losses = _series(rows, "train/loss")
    marker = "o" if len(losses) < 2 else ""
    if losses:
        smoothed = smooth(losses, half_width=round(len(losses) * SMOOTHED_SHARE))
        axes.plot(tokens, losses, color=TRAIN_COLOUR, alpha=0.3, linewidth=0.9)
        axes.plot(tokens, smoothed, color=TRAIN_COLOUR, linewidth=1.8, marker=marker, label="train (smoothed)")
    names = sorted({key for row in rows for key in row if key.startswith("eval/") and key.endswith("/loss")})
    for number, key in enumerate(names):
        at, values = _series(rows, key)
        label = f"{key.removeprefix('eval/').removesuffix('/loss')}, last {values[-1]:.3f}"
        colour = EVAL_COLOURS[number % len(EVAL_COLOURS)]
        axes.plot(at, values, color=colour, linewidth=1.5, marker="o", markersize=4, label=label)
    axes.set_ylabel(f"loss ({scale})")
    if losses or names:
        axes.legend(frameon=False)
    else:
        axes.text(0.5, 0.5, "no rows in metrics.jsonl yet", ha="center", va="center", transform=axes.transAxes)


def _draw_learning_rate(axes: matplotlib.axes.Axes, rows: list[Row]) -> None:
    tokens, rates = _series(rows, "train/lr")
    axes.plot(tokens, rates, color=LR_COLOUR, linewidth=1.5, marker="o" if len(rates) == 1 else "")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
    axes.set_ylim(bottom=0)
    if not rows:
        axes.set_xticks([0])
    axes.set_xlabel("tokens")
    axes.set_ylabel("learning rate")
    axes.xaxis.set_major_formatter(readable_count)


def _series(rows: list[Row], key: str) -> tuple[list[int], list[float]]:
    """The tokens and values of the rows that have `key`."""
    found = [(row["tokens"], row[key]) for row in rows if key in row and "tokens" in row]
    return [tokens for tokens, _ in found], [value for _, value in found]

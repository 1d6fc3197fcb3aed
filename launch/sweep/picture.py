"""sweep.png: loss over tokens of every trial, and its last loss over each parameter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from launch.sweep.results import Result
from launch.sweep.space import Distribution, Space
from launch.sweep.trial import FINISHED
from trainer.report.curves import readable_count

if TYPE_CHECKING:
    import matplotlib.axes

BEST, WHOLE, SHORT = "#dd5143", "#4c72b0", "#b0b0b0"
COLUMNS = 3
HIGHEST_SHARE = 0.9  # of reports lie in the picture: a few bad ones don't squeeze the others


def draw_sweep(
    path: Path,
    results: Sequence[Result],
    best: Result | None,
    space: Space,
    *,
    title: str,
    metric: str,
    importance: Mapping[str, float],
) -> Path:
    """Draws the picture of a sweep."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = math.ceil(len(space) / COLUMNS)
    figure = Figure(figsize=(11, 4.5 + 3.2 * rows), dpi=130, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13, fontweight="bold")
    parts = figure.subfigures(1 + (rows > 0), 1, height_ratios=[4.5, 3.2 * rows][: 1 + (rows > 0)], squeeze=False)
    _draw_curves(parts[0, 0].subplots(), results, best, metric)
    if rows:
        panels = parts[1, 0].subplots(rows, min(COLUMNS, len(space)), squeeze=False, sharey=True).flat
        parts[1, 0].supylabel("loss", fontsize=10)
        for key, axes in zip(space, panels, strict=False):  # in this order: panels keeps what is left over
            _draw_parameter(axes, key, results, best, space[key])
            share = f" (importance {importance[key]:.0%})" if key in importance else ""
            axes.set_xlabel(f"{key}{share}")
        for axes in list(panels):
            axes.set_visible(False)
        parts[1, 0].axes[0].legend(frameon=False, fontsize=8)
    temporary = path.with_name(f"{path.name}.partial")
    canvas.print_png(temporary)
    temporary.replace(path)
    return path


def _draw_curves(axes: matplotlib.axes.Axes, results: Sequence[Result], best: Result | None, metric: str) -> None:
    for result in results:
        chosen = best is not None and result.number == best.number
        colour = BEST if chosen else WHOLE if result.state == FINISHED else SHORT
        tokens, losses = [point.tokens for point in result.points], [point.loss for point in result.points]
        label = f"best: trial {result.number:05d}, {result.loss:.4f}" if chosen else None
        width, layer = (2.4, 3) if chosen else (1.1, 2)
        axes.plot(tokens, losses, color=colour, linewidth=width, zorder=layer, label=label, marker="o", markersize=2)
    for colour, label in ((WHOLE, "all its steps"), (SHORT, "stopped early, or not at its end")):
        axes.plot([], [], color=colour, label=label)
    heights = sorted(point.loss for result in results for point in result.points)
    if heights:
        low, high = heights[0], heights[min(len(heights) - 1, int(HIGHEST_SHARE * len(heights)))]
        axes.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low) + 1e-6)
    axes.set_xlabel("tokens")
    axes.set_ylabel(metric)
    axes.xaxis.set_major_formatter(readable_count)
    _finish(axes)
    axes.legend(frameon=False)


def _draw_parameter(
    axes: matplotlib.axes.Axes, key: str, results: Sequence[Result], best: Result | None, distribution: Distribution
) -> None:
    if distribution.kind == "loguniform":
        axes.set_xscale("log")
    if distribution.is_range:
        axes.set_xlim(distribution.low, distribution.high)
    else:
        axes.xaxis.update_units(distribution.values)  # in their order
    measured = [result for result in results if result.points]
    for whole, colour, label in ((False, SHORT, "before the end"), (True, WHOLE, "at the end")):
        shown = [result for result in measured if (result.state == FINISHED) == whole]
        at = [distribution.number(result.values[key]) for result in shown]
        axes.scatter(at, [result.loss for result in shown], color=colour, s=22, label=label, zorder=3)
    if best is not None:
        axes.scatter([distribution.number(best.values[key])], [best.loss], color=BEST, s=70, marker="*", zorder=4)
    _finish(axes)


def _finish(axes: matplotlib.axes.Axes) -> None:
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)

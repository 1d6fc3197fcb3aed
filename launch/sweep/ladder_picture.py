"""ladder.png: measured losses over tokens with the law's curves, and the law over sizes at equal compute."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainer.planning.scaling_law import FLOPS_PER_PARAMETER_TOKEN, LEVEL, Fit, MeasuredRun
from trainer.report.curves import readable_count

if TYPE_CHECKING:
    import matplotlib.axes

HELD_OUT, PREDICTED = "#dd5143", "#4c72b0"


def draw_ladder(path: Path, fit: Fit, held_out: MeasuredRun | None, flops: float) -> Path:
    """Measured losses over tokens with the law's curve for each size, and the law at equal compute."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), dpi=130, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    by_tokens, by_size = figure.subplots(1, 2)
    sizes = sorted({run.parameters for run in fit.runs})
    colours = dict(zip(sizes, colormaps["viridis"](np.linspace(0.05, 0.85, len(sizes))), strict=True))
    most = max(run.tokens for run in (*fit.runs, *([held_out] if held_out else [])))
    span = np.geomspace(min(run.tokens for run in fit.runs) / 1.3, most * 1.3, 100)
    for size in sizes:
        by_tokens.plot(span, [fit.law.loss(size, d) for d in span], color=colours[size], linewidth=1.2)
        points = [(run.tokens, run.loss) for run in fit.runs if run.parameters == size]
        by_tokens.scatter(
            *zip(*points, strict=True), color=colours[size], s=30, zorder=3, label=f"N = {readable_count(size)}"
        )
    if held_out is not None:
        curve = [fit.law.loss(held_out.parameters, d) for d in span]
        by_tokens.plot(span, curve, color=HELD_OUT, linewidth=1.2, linestyle="--")
        label = f"N = {readable_count(held_out.parameters)}, held out"
        by_tokens.scatter([held_out.tokens], [held_out.loss], color=HELD_OUT, s=90, marker="*", zorder=4, label=label)
    by_tokens.set_xlabel("tokens D")
    _draw_equal_compute(by_size, fit, flops)
    for axes in (by_tokens, by_size):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(readable_count)
        axes.xaxis.set_minor_formatter("")
        axes.set_ylabel("loss")
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    temporary = path.with_name(f"{path.name}.partial")
    canvas.print_png(temporary)
    temporary.replace(path)
    return path


def _draw_equal_compute(axes: matplotlib.axes.Axes, fit: Fit, flops: float) -> None:
    parameters, tokens = fit.law.best_size(flops)
    span = np.geomspace(parameters / 20, parameters * 20, 100)
    budget = flops / FLOPS_PER_PARAMETER_TOKEN
    laws = np.array([[law.loss(n, budget / n) for n in span] for law in fit.resampled])
    low, high = np.quantile(laws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    axes.fill_between(span, low, high, color=PREDICTED, alpha=0.2, label=f"{LEVEL:.0%} of the resampled fits")
    axes.plot(
        span, [fit.law.loss(n, budget / n) for n in span], color=PREDICTED, label=f"predicted at {flops:.2g} FLOPs"
    )
    label = f"best: N = {readable_count(parameters)}, D = {readable_count(tokens)}"
    axes.scatter(
        [parameters], [fit.law.loss(parameters, tokens)], color=HELD_OUT, marker="*", s=90, zorder=4, label=label
    )
    axes.set_xlabel("parameters N")

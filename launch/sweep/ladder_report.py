"""What a ladder says: the law, the held-out run beside its prediction, the best size for a budget, and a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from launch.sweep.ladder import Rung
from launch.sweep.results import Result
from launch.sweep.trial import FINISHED
from trainer.config import Ladder
from trainer.errors import InputError
from trainer.scaling import FLOPS_PER_PARAMETER_TOKEN, Fit, Run, fit_law
from trainer.track.curves import readable_tokens

FURTHER = 10.0  # times the dearest run's compute, by default, is what the best size is told for
CONSTANTS = {"e": "E", "a": "A", "b": "B", "alpha": "α", "beta": "β"}


def report_ladder(folder: Path, ladder: Ladder, rungs: Sequence[Rung], results: Sequence[Result]) -> dict[str, Any]:
    """Fits, predicts, draws ladder.png and prints; returns the figures. Where nothing can be fitted it says why."""
    losses = {result.number: result.loss for result in results if result.state == FINISHED}
    measured = [
        (rung, losses[number]) for number, rung in enumerate(rungs) if math.isfinite(losses.get(number, math.nan))
    ]
    runs = [Run(rung.parameters, rung.tokens, loss) for rung, loss in measured if not rung.is_holdout]
    held_out = next((Run(rung.parameters, rung.tokens, loss) for rung, loss in measured if rung.is_holdout), None)
    try:
        fit = fit_law(runs, resamples=ladder.resamples)
    except InputError as error:
        print(f"ladder     {error}", flush=True)
        return {}
    flops = ladder.flops or FURTHER * max(FLOPS_PER_PARAMETER_TOKEN * run.parameters * run.tokens for run in runs)
    summary = summarise(fit, held_out, flops)
    for line in lines_of(fit, summary):
        print(line, flush=True)
    print(f"picture    {draw_ladder(folder / 'ladder.png', fit, held_out, flops)}", flush=True)
    return summary


def summarise(fit: Fit, held_out: Run | None, flops: float) -> dict[str, Any]:
    """All figures of a fit."""
    constants = {name: {"value": getattr(fit.law, name), "interval": fit.interval(name)} for name in CONSTANTS}
    parameters, tokens = fit.law.best_size(flops)
    best = {
        "flops": flops,
        "parameters": parameters,
        "interval": fit.best_size_interval(flops),
        "tokens": tokens,
        "loss": fit.law.loss(parameters, tokens),
        "loss_interval": fit.loss_interval(parameters, tokens),
    }
    summary: dict[str, Any] = {
        "law": constants,
        "runs": [vars(run) | {"fitted": fit.law.loss(run.parameters, run.tokens)} for run in fit.runs],
        "worst_error": fit.worst_error,
        "compute_optimal": best,
    }
    if held_out is not None:
        predicted = fit.law.loss(held_out.parameters, held_out.tokens)
        summary["holdout"] = vars(held_out) | {
            "predicted": predicted,
            "interval": fit.loss_interval(held_out.parameters, held_out.tokens),
            "error": predicted / held_out.loss - 1,
        }
    return summary


def lines_of(fit: Fit, summary: dict[str, Any]) -> list[str]:
    """The figures as they are printed."""
    law = fit.law
    intervals = "  ".join(
        f"{sign} {summary['law'][name]['value']:.4g} [{low:.4g}, {high:.4g}]"
        for name, sign in CONSTANTS.items()
        for low, high in [summary["law"][name]["interval"]]
    )
    lines = [
        f"law        L(N, D) = {law.e:.4g} + {law.a:.4g} / N^{law.alpha:.4g} + {law.b:.4g} / D^{law.beta:.4g}, "
        f"within {summary['worst_error']:.2%} of its {len(fit.runs)} runs",
        f"95 %       {intervals}",
    ]
    if "holdout" in summary:
        held = summary["holdout"]
        low, high = held["interval"]
        lines.append(
            f"held out   {_count(held['parameters'])} parameters, {_count(held['tokens'])} tokens: predicted "
            f"{held['predicted']:.4f} [{low:.4f}, {high:.4f}], measured {held['loss']:.4f} ({held['error']:+.2%})"
        )
    best = summary["compute_optimal"]
    low, high = best["interval"]
    lines.append(
        f"best size  for {best['flops']:.3g} FLOPs: {_count(best['parameters'])} parameters "
        f"[{_count(low)}, {_count(high)}], {_count(best['tokens'])} tokens, loss {best['loss']:.4f}"
    )
    return lines


def draw_ladder(path: Path, fit: Fit, held_out: Run | None, flops: float) -> Path:
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
        by_tokens.scatter(*zip(*points, strict=True), color=colours[size], s=30, zorder=3, label=f"N = {_count(size)}")
    if held_out is not None:
        curve = [fit.law.loss(held_out.parameters, d) for d in span]
        by_tokens.plot(span, curve, color="#dd5143", linewidth=1.2, linestyle="--")
        label = f"N = {_count(held_out.parameters)}, held out"
        by_tokens.scatter([held_out.tokens], [held_out.loss], color="#dd5143", s=90, marker="*", zorder=4, label=label)
    by_tokens.set_xlabel("tokens D")
    _draw_equal_compute(by_size, fit, flops)
    for axes in (by_tokens, by_size):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(readable_tokens)
        axes.xaxis.set_minor_formatter("")
        axes.set_ylabel("loss (nats per token)")
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    temporary = path.with_name(f"{path.name}.partial")
    canvas.print_png(temporary)
    temporary.replace(path)
    return path


def _draw_equal_compute(axes: Any, fit: Fit, flops: float) -> None:
    parameters, tokens = fit.law.best_size(flops)
    span = np.geomspace(parameters / 20, parameters * 20, 100)
    budget = flops / FLOPS_PER_PARAMETER_TOKEN
    laws = np.array([[law.loss(n, budget / n) for n in span] for law in fit.resampled])
    low, high = np.quantile(laws, [0.025, 0.975], axis=0)
    axes.fill_between(span, low, high, color="#4c72b0", alpha=0.2, label="95 % of the resampled fits")
    axes.plot(
        span, [fit.law.loss(n, budget / n) for n in span], color="#4c72b0", label=f"predicted at {flops:.2g} FLOPs"
    )
    label = f"best: N = {_count(parameters)}, D = {_count(tokens)}"
    axes.scatter(
        [parameters], [fit.law.loss(parameters, tokens)], color="#dd5143", marker="*", s=90, zorder=4, label=label
    )
    axes.set_xlabel("parameters N")


def _count(number: float) -> str:
    return readable_tokens(number)

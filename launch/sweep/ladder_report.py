"""What a ladder says: the law, the held-out run beside its prediction, and the best size for a budget of compute."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.sweep.ladder import Rung
from launch.sweep.ladder_picture import draw_ladder
from launch.sweep.results import Result
from launch.sweep.trial import FINISHED
from trainer.config import Ladder
from trainer.errors import InputError
from trainer.planning.scaling_law import Fit, MeasuredRun, fit_law
from trainer.report.curves import readable_count as readable

FURTHER = 10.0  # times the dearest run's compute, by default, is the budget that the best size is reported for
SMALLEST = 1e-4  # of a constant that is printed
CONSTANTS = {"e": "E", "a": "A", "b": "B", "alpha": "α", "beta": "β"}


def report_ladder(folder: Path, ladder: Ladder, rungs: Sequence[Rung], results: Sequence[Result]) -> dict[str, Any]:
    """Fits, predicts, draws ladder.png and prints; returns the figures. Where nothing can be fitted it says why."""
    losses = {result.number: result.loss for result in results if result.state == FINISHED}
    measured = [
        (rung, losses[number]) for number, rung in enumerate(rungs) if math.isfinite(losses.get(number, math.nan))
    ]
    runs = [MeasuredRun(rung.parameters, rung.tokens, loss) for rung, loss in measured if not rung.is_holdout]
    held_out = next(
        (MeasuredRun(rung.parameters, rung.tokens, loss) for rung, loss in measured if rung.is_holdout), None
    )
    try:
        fit = fit_law(runs, resamples=ladder.resamples)
    except InputError as error:
        print(f"ladder     {error}", flush=True)
        return {}
    flops = ladder.flops or FURTHER * max(rung.flops for rung in rungs if not rung.is_holdout)
    summary = summarise(fit, held_out, flops)
    for line in lines_of(fit, summary):
        print(line, flush=True)
    print(f"picture    {draw_ladder(folder / 'ladder.png', fit, held_out, flops)}", flush=True)
    return summary


def summarise(fit: Fit, held_out: MeasuredRun | None, flops: float) -> dict[str, Any]:
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
        f"{sign} {_figure(summary['law'][name]['value'])} [{_figure(low)}, {_figure(high)}]"
        for name, sign in CONSTANTS.items()
        for low, high in [summary["law"][name]["interval"]]
    )
    lines = [
        f"law        L(N, D) = {_figure(law.e)} + {law.a:.4g} / N^{law.alpha:.4g} + {law.b:.4g} / D^{law.beta:.4g}, "
        f"within {summary['worst_error']:.2%} of its {len(fit.runs)} runs",
        f"95 %       {intervals}",
    ]
    if "holdout" in summary:
        held = summary["holdout"]
        low, high = held["interval"]
        lines.append(
            f"held out   {readable(held['parameters'])} parameters, {readable(held['tokens'])} tokens: predicted "
            f"{held['predicted']:.4f} [{low:.4f}, {high:.4f}], measured {held['loss']:.4f} ({held['error']:+.2%})"
        )
    best = summary["compute_optimal"]
    low, high = best["interval"]
    lines.append(
        f"best size  for {best['flops']:.3g} FLOPs: {readable(best['parameters'])} parameters "
        f"[{readable(low)}, {readable(high)}], {readable(best['tokens'])} tokens, loss {best['loss']:.4f}"
    )
    return lines


def _figure(number: float) -> str:
    """Four digits; 0 for what is too small to matter to a loss."""
    return f"{number:.4g}" if number >= SMALLEST else "0"

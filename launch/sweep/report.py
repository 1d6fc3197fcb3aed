"""The end of a sweep: tables, pictures, the best configuration, and a W&B run that has them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.sweep.best import NAME, write_best
from launch.sweep.ladder import Rung
from launch.sweep.ladder_report import report_ladder
from launch.sweep.picture import draw_sweep
from launch.sweep.plan import SweepPlan
from launch.sweep.results import Result, best_of, collect_results, common_tokens, importance_of, write_tables
from launch.sweep.space import Space, as_typed
from launch.sweep.trial import FAILED, Trial
from trainer.config import Search, Wandb
from trainer.machine.terminal import show
from trainer.report.curves import readable_count
from trainer.track.sinks.wandb_run import WandbSettings, start_or_fall_back


def report_sweep(
    plan: SweepPlan, search: Search, space: Space, rungs: Sequence[Rung], trials: Sequence[Trial], wandb: Wandb
) -> None:
    """Writes what was found so far, and says it."""
    results = collect_results(plan, trials)
    best = best_of(results)
    summary: dict[str, Any] = {"sweep": plan.name, "metric": plan.metric, "best": best.row() if best else None}
    pictures = []
    print()
    print(f"trials     {', '.join(f'{count} {state}' for state, count in Counter(r.state for r in results).items())}")
    for failed in [result for result in results if result.state == FAILED][:1]:
        show(f"failed     trial {failed.number:05d}: {failed.error} Its log: {failed.log}")
    if rungs:
        summary["ladder"] = report_ladder(plan.folder, search.ladder, rungs, results)
        pictures += [plan.folder / "ladder.png"] if summary["ladder"] else []
    elif best is not None:
        report_best(plan, best)
        summary["importance"] = {} if plan.has_segments else importance_of(results, space)
        if summary["importance"]:
            at = readable_count(common_tokens(results))
            shares = ", ".join(f"{key} {share:.0%}" for key, share in summary["importance"].items())
            print(f"importance {shares} (PED-ANOVA of the losses after {at} tokens, which all trials have)")
    picture = draw_sweep(
        plan.folder / "sweep.png",
        results,
        best,
        space,
        title=f"{plan.name}: {len(results)} trials",
        metric=plan.label,
        importance=summary.get("importance", {}),
    )
    write_tables(plan.folder, results, summary)
    print(f"picture    {picture}")
    print(f"results    {plan.folder / 'results.csv'}", flush=True)
    log_to_wandb(plan, wandb, results, [*pictures, picture], summary)


def report_best(plan: SweepPlan, best: Result) -> None:
    """Writes the best configuration and says how to use it."""
    print(f"best       trial {best.number:05d}: {plan.label} {best.loss:.4f} after {best.points[-1].step} steps")
    print(f"           {as_typed(best.values)}")
    print(f"train it   banyan pretrain --config-dir {write_best(plan, best)} experiment={NAME}")


def log_to_wandb(
    plan: SweepPlan, settings: Wandb, results: Sequence[Result], pictures: Sequence[Path], summary: dict[str, Any]
) -> None:
    """A W&B run in the sweep's group, with the table and the pictures."""
    grouped = dataclasses.replace(settings, group=settings.group or plan.name)
    of_sweep = WandbSettings(run_dir=plan.folder, name=plan.name, settings=grouped, config={"sweep": plan.identity})
    run = start_or_fall_back(of_sweep, say=print)
    if run is None:
        return
    rows = [result.row() for result in results]
    columns: list[str | int] = list(dict.fromkeys(key for row in rows for key in row))
    run.log_media(
        pictures={f"sweep/{path.stem}": path for path in pictures},
        tables={"sweep/trials": (columns, [[row.get(str(key)) for key in columns] for row in rows])},
    )
    sections = {part: summary[part] or {} for part in ("best", "importance", "ladder") if part in summary}
    figures = {f"{part}/{key}": value for part, found in sections.items() for key, value in found.items()}
    run.close(exit_code=0, summary=figures)

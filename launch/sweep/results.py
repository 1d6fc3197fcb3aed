"""What a sweep measured: a row for each trial, the best of them, and how much each parameter mattered."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.sweep.plan import SweepPlan
from launch.sweep.space import Space, Values, to_numbers
from launch.sweep.trial import DIVERGED, FINISHED, RUNNING, Point, Trial
from trainer.machine.durable import write_json, write_text

FEWEST_FOR_IMPORTANCE = 8
UNFINISHED = "unfinished"  # a trial that runs, to a sweep that has ended


@dataclass(frozen=True)
class Result:
    """How one trial went. `points` are its reports; `loss` is the last of them, NaN if there is none."""

    number: int
    state: str
    values: Values
    points: tuple[Point, ...]
    run_dir: Path
    log: Path
    error: str

    @property
    def loss(self) -> float:
        """The metric at its last report."""
        return self.points[-1].loss if self.points else math.nan

    @property
    def tokens(self) -> int:
        """Tokens that it was trained on, at its last report."""
        return self.points[-1].tokens if self.points else 0

    def loss_after(self, tokens: int) -> float:
        """The metric at its first report after `tokens`."""
        return next((point.loss for point in self.points if point.tokens >= tokens), math.nan)

    def row(self) -> dict[str, Any]:
        """The trial as a row of the table, by column."""
        last = self.points[-1] if self.points else None
        return {
            "trial": self.number,
            "state": self.state,
            "step": last.step if last else None,
            "tokens": last.tokens if last else None,
            "loss": last.loss if last and math.isfinite(last.loss) else None,
            **self.values,
            "run_dir": str(self.run_dir),
            "error": self.error,
        }


def collect_results(plan: SweepPlan, trials: Sequence[Trial]) -> list[Result]:
    """The results of trials, from their run directories."""
    return [
        Result(
            number=trial.number,
            state=UNFINISHED if trial.state == RUNNING else trial.state,
            values=trial.values,
            points=tuple(trial.points(plan)),
            run_dir=trial.run_dir,
            log=trial.log,
            error=trial.error,
        )
        for trial in trials
    ]


def best_of(results: Sequence[Result]) -> Result | None:
    """The lowest final loss among the trials that took all their steps."""
    whole = [result for result in results if result.state == FINISHED and math.isfinite(result.loss)]
    return min(whole, key=lambda result: result.loss, default=None)


def common_tokens(results: Sequence[Result]) -> int:
    """The most tokens that every trial with a report was trained on: there, all can be compared."""
    return min((result.tokens for result in results if result.points and result.state != DIVERGED), default=0)


def importance_of(results: Sequence[Result], space: Space) -> dict[str, float]:
    """Share of each parameter in how good a trial is, after the tokens that all have.

    PED-ANOVA (Watanabe et al., 2023) compares the values of the best quarter of the trials with all. Empty where there
    are too few, or one parameter.
    """
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    from launch.sweep.searcher import distribution_for_optuna

    tokens = common_tokens(results)
    compared = [(result, loss) for result in results if math.isfinite(loss := result.loss_after(tokens))]
    if len(space) < 2 or len(compared) < FEWEST_FOR_IMPORTANCE:
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    distributions = {key: distribution_for_optuna(item) for key, item in space.items()}
    for result, loss in compared:
        study.add_trial(
            optuna.trial.create_trial(params=to_numbers(result.values, space), distributions=distributions, value=loss)
        )
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=0.25))


def write_tables(folder: Path, results: Sequence[Result], summary: dict[str, Any]) -> None:
    """results.csv, a row for each trial; results.json, the same with `summary`."""
    rows = [result.row() for result in results]
    text = io.StringIO()
    writer = csv.DictWriter(
        text, fieldnames=list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "results.csv", text.getvalue())
    write_json(folder / "results.json", summary | {"trials": rows})

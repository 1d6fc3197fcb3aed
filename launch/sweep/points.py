"""What a sweep tries: a list of values that is known beforehand, or what a searcher chooses as it goes."""

from __future__ import annotations

from dataclasses import dataclass

from launch.sweep import checks
from launch.sweep.ladder import Rung, rungs_of
from launch.sweep.plan import SweepPlan
from launch.sweep.space import Space, Values, all_points, draw_point, read_space
from trainer.config import Model, Search


@dataclass(frozen=True)
class PointsToTry:
    """The space, the values of every trial where they are known beforehand, and a ladder's runs."""

    space: Space
    points: list[Values] | None  # None: chosen as the sweep goes
    trials: int
    rungs: list[Rung]


def points_to_try(search: Search, model: Model, plan: SweepPlan) -> PointsToTry:
    """What is to be tried."""
    space = read_space(search.space, checks.pretrain_names(plan))
    if search.searcher == "ladder":
        rungs = rungs_of(search.ladder, model)
        return PointsToTry(space, [rung.values for rung in rungs], len(rungs), rungs)
    if search.searcher == "grid":
        points = list(all_points(space))
        return PointsToTry(space, points, len(points), [])
    if search.searcher == "tpe":
        return PointsToTry(space, None, search.trials, [])
    points = [draw_point(space, seed=search.seed, number=number) for number in range(search.trials)]
    return PointsToTry(space, points, search.trials, [])

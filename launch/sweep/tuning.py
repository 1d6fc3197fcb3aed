"""Hands the trials of a sweep to Ray Tune."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from launch.sweep.plan import SweepPlan
from launch.sweep.points import PointsToTry
from launch.sweep.scheduler import build_scheduler
from launch.sweep.searcher import ParzenSearcher
from launch.sweep.space import to_numbers
from launch.sweep.stop import TrialStopper
from launch.sweep.trainable import SweepTrial
from launch.sweep.trial import FINAL_STATES, Trial
from launch.sweep.watch import Watch
from trainer.config import Search

ACTOR_RESTARTS = 3  # of a trial whose node is lost
FOLDER = "tune"  # of Ray Tune's own files, which hold nothing that a later start needs


def tune_trials(
    search: Search,
    plan: SweepPlan,
    to_try: PointsToTry,
    *,
    tokens_per_step: int,
    needed: dict[str, float],
    room: int,
) -> bool:
    """Runs the trials, each with what it `needed` of a node, `room` at once; whether it was interrupted.

    All begin anew as far as Tune knows. Those that ended before repeat their reports, from which a scheduler or a
    searcher learns what it knew; where there is neither they are left out.
    """
    trials = [Trial.open(plan, number) for number in range(to_try.trials)]
    ended = [trial.number for trial in trials if trial.state in FINAL_STATES]
    scheduler = build_scheduler(
        search,
        to_try.space,
        tokens=plan.steps * tokens_per_step,
        tokens_per_step=tokens_per_step,
        every=plan.every,
        room=room,
    )
    stops = TrialStopper(plan.stop_file)
    shutil.rmtree(plan.folder / FOLDER, ignore_errors=True)
    tuner = tune.Tuner(
        tune.with_resources(SweepTrial, tune.PlacementGroupFactory([needed])),
        param_space=None if to_try.points is None else listed(search, plan, to_try, trials),
        tune_config=tune.TuneConfig(
            num_samples=-1 if to_try.points is None else 1,
            search_alg=searcher_for(search, plan, to_try, trials) if to_try.points is None else None,
            scheduler=scheduler,
            max_concurrent_trials=room,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=FOLDER,
            storage_path=plan.dir,
            callbacks=[Watch(plan, stops, ended=ended, of=to_try.trials)],
            stop=stops,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=ACTOR_RESTARTS),
            verbose=0,
        ),
    )
    with stops.heard():
        tuner.fit()
    return stops.count > 0


def listed(search: Search, plan: SweepPlan, to_try: PointsToTry, trials: Sequence[Trial]) -> dict[str, Any]:
    """The trials whose values are known beforehand, as Tune's space; one that has begun keeps what it began with."""
    assert to_try.points is not None
    cases = [
        {"sweep": plan.dir, "number": trial.number, "values": to_numbers(trial.values or point, to_try.space)}
        for trial, point in zip(trials, to_try.points, strict=True)
        if search.scheduler != "none" or trial.state not in FINAL_STATES
    ]
    return {"trial": tune.grid_search(cases)}


def searcher_for(search: Search, plan: SweepPlan, to_try: PointsToTry, trials: Sequence[Trial]) -> ParzenSearcher:
    """The searcher that chooses as it goes, and begins with the trials that have begun."""
    known = {trial.number: trial.values for trial in trials if trial.values}
    return ParzenSearcher(to_try.space, trials=to_try.trials, seed=search.seed, known=known, sweep=plan.dir)


def _name(trial: TuneTrial) -> str:
    return f"{trial.config['trial']['number']:05d}"

"""`banyan sweep`: Ray Tune over pretrain. Read `main` from top to bottom: it is the map of what happens.

banyan sweep search=asha model=tiny 'search.space.optimizer.lr=loguniform(1e-4,1e-2)' search.trials=16
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from launch.ray.paths import folder_of_ranks
from launch.sweep import checks
from launch.sweep.ladder import rungs_of
from launch.sweep.plan import SweepPlan, identity_of, locate_sweep, name_sweep, split_overrides
from launch.sweep.points import PointsToTry, points_to_try
from launch.sweep.report import report_sweep
from launch.sweep.trial import FINAL_STATES, FINISHED, all_trials
from trainer.config import Pretrain, Search, Sweep
from trainer.config.plain_values import with_values
from trainer.data.tokens.datasets import open_training, open_validation, with_length
from trainer.data.tokens.history import total_steps_of
from trainer.errors import STOPPED
from trainer.report.curves import readable_count
from trainer.run.lock import RunLock

if TYPE_CHECKING:
    from launch.cli import Options


def main(config: Sweep, options: Options) -> int:
    """Runs a sweep, or goes on with it; the exit code."""
    checks.require_packages()
    search = config.search
    plan, base = settle(search, options)
    to_try = points_to_try(search, base.model, plan)
    checks.check_sweep(search, plan, base.track, to_try.space, to_try.points)
    with RunLock() as lock:
        plan.folder.mkdir(parents=True, exist_ok=True)
        lock.take(plan.folder, base.run.lock_timeout_s)
        plan.write()
        tokens_per_step = base.train.batch_size * base.data.sequence_length
        interrupted = run(search, plan, to_try, tokens_per_step=tokens_per_step)
        trials = all_trials(plan)
        report_sweep(plan, search, to_try.space, to_try.rungs, trials, base.track.wandb)
    if interrupted:
        print(f"stopped; the same command goes on with {plan.dir}", flush=True)
        return STOPPED
    return 0 if any(trial.state == FINISHED for trial in trials) else 1


def settle(search: Search, options: Options) -> tuple[SweepPlan, Pretrain]:
    """The plan of the trials, and the configuration that they have in common."""
    from launch.compose import compose

    overrides = split_overrides(options.overrides)
    if search.searcher == "ladder":
        overrides = ("model.mup=true", *checks.without_length(overrides))
    config_dir = options.config_dir.absolute() if options.config_dir else None
    base: Pretrain = compose("pretrain", overrides, config_dir)
    checks.check_launch(base.launch)
    training, validation = open_training(base.data), open_validation(base.data)
    base = with_length(base)
    base = with_values(base, {"model.vocab_size": base.model.vocab_size or training[0].manifest.vocab_size})
    metric = checks.metric_of(search, [dataset.name for dataset in validation], base.evaluate.tasks)
    steps = total_steps_of(base)
    if search.searcher == "ladder":
        checks.check_ladder(search, base.model)
        longest = max(rung.tokens for rung in rungs_of(search.ladder, base.model))
        steps = math.ceil(longest / (base.train.batch_size * base.data.sequence_length))
    every = search.every or max(1, steps // 10)
    identity = identity_of(search, base, every=every, metric=metric)
    name = name_sweep(search, base, identity)
    base = with_values(base, {"run.dir": str(locate_sweep(search, name))})
    plan = SweepPlan(
        dir=str(base.run.dir),
        name=name,
        overrides=overrides,
        config_dir=str(config_dir) if config_dir else None,
        cwd=folder_of_ranks(base),
        metric=metric,
        every=every,
        steps=steps,
        ranks=search.ranks_per_trial or base.launch.processes or 1,
        threads=base.launch.threads or 1,
        has_segments=search.scheduler == "pbt",
        reports_saved=search.scheduler in ("pbt", "hyperband"),
        identity=identity,
    )
    return plan, base


def run(search: Search, plan: SweepPlan, to_try: PointsToTry, *, tokens_per_step: int) -> bool:
    """Runs what is left of the trials on the Ray cluster; whether it was interrupted."""
    done = [trial for trial in all_trials(plan) if trial.state in FINAL_STATES]
    if len(done) >= to_try.trials:
        print(f"{plan.dir}: all {len(done)} trials have ended before", flush=True)
        return False
    from launch.sweep import cluster

    with cluster.connected_for_tune():
        from launch.sweep.tuning import tune_trials

        needed = cluster.resources_for(plan.ranks, plan.threads)
        room = min(cluster.trials_that_fit(needed), search.max_concurrent or to_try.trials, to_try.trials)
        announce_sweep(search, plan, to_try, len(done), room)
        return tune_trials(search, plan, to_try, tokens_per_step=tokens_per_step, needed=needed, room=room)


def announce_sweep(search: Search, plan: SweepPlan, to_try: PointsToTry, done: int, room: int) -> None:
    """Says what begins."""
    over = f" over {', '.join(to_try.space)}" if to_try.space else ""
    ranks = f"{plan.ranks} rank{'s' * (plan.ranks > 1)}"
    print(
        f"{plan.name}: {to_try.trials} trials of {ranks}{over}, searcher {search.searcher}, "
        f"scheduler {search.scheduler}; {room} at once; sweep directory {plan.dir}",
        flush=True,
    )
    if to_try.rungs:
        small, large = (readable_count(choose(rung.parameters for rung in to_try.rungs)) for choose in (min, max))
        print(f"{small} to {large} parameters, {sum(rung.flops for rung in to_try.rungs):.2g} FLOPs in all", flush=True)
    if done:
        print(f"going on: {done} trials have ended before", flush=True)

"""Who stops trials early: Ray Tune's schedulers, with the sweep's settings. Their time is counted in tokens."""

from __future__ import annotations

import random
import warnings
from typing import Any

from ray.tune import schedulers

from launch.sweep.space import Distribution, Space
from launch.sweep.trainable import LOSS, TOKENS
from trainer.config import Search


def build_scheduler(search: Search, space: Space, *, tokens: int, tokens_per_step: int, every: int, room: int) -> Any:
    """The scheduler of search.scheduler, for trials of `tokens` that report every `every` steps, `room` at once."""
    common: dict[str, Any] = {"time_attr": TOKENS, "metric": LOSS, "mode": "min"}
    if search.scheduler == "asha":
        # max_t is above the last report: a trial that took all steps ends by itself.
        return schedulers.ASHAScheduler(
            **common,
            max_t=tokens + 1,
            grace_period=min((search.grace or every) * tokens_per_step, tokens),
            reduction_factor=search.reduction,
        )
    if search.scheduler == "hyperband":
        return schedulers.HyperBandScheduler(
            **common, max_t=tokens, reduction_factor=search.reduction, stop_last_trials=False
        )
    if search.scheduler == "pbt":
        random.seed(search.seed)  # Tune draws from the module's own source
        warnings.filterwarnings("ignore", message="Consider boosting PBT")  # of actors, which here hold nothing
        return schedulers.PopulationBasedTraining(
            **common,
            perturbation_interval=(search.perturb_every or every) * tokens_per_step,
            hyperparam_mutations={"trial": {"values": {key: _mutation(item) for key, item in space.items()}}},
            custom_explore_fn=lambda config: {
                "trial": config["trial"] | {"values": _rounded(config["trial"]["values"], space)}
            },
            quantile_fraction=search.quantile,
            log_config=False,
            synch=room < search.trials,  # else a trial would end before others begin
        )
    return schedulers.FIFOScheduler()


def _mutation(distribution: Distribution) -> Any:
    """What pbt draws anew from: of a list it moves to a neighbour else, of a range it goes up or down by a fifth."""
    if not distribution.is_range:
        return list(distribution.values)
    return lambda: distribution.number(distribution.draw(random.Random(random.random())))


def _rounded(values: dict[str, Any], space: Space) -> dict[str, Any]:
    """Values inside their ranges, with as few digits as a drawn one has."""
    return {
        key: space[key].number(space[key].text(value)) if space[key].is_range else value
        for key, value in values.items()
    }

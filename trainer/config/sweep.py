"""What a sweep tries, how it chooses, and when it gives a trial up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from trainer.config.knobs import knob, part


@dataclass
class Ladder:
    """Sizes and budgets of a scaling ladder (search.searcher=ladder)."""

    widths: list[int] = knob([], "hidden_size of each size; heads, feed-forward and layers follow.", common=True)
    tokens_per_parameter: list[float] = knob([], "Training tokens of each size, per parameter.", common=True)
    aspect: Optional[float] = knob(
        None, "hidden_size / num_hidden_layers of every size; by default all have model.num_hidden_layers."
    )
    holdout: Optional[int] = knob(
        None, "hidden_size of a larger size, kept out of the fit, trained, and compared with the prediction."
    )
    holdout_tokens_per_parameter: Optional[float] = knob(
        None, "Its tokens per parameter; by default the most of the ladder."
    )
    flops: Optional[float] = knob(
        None, "Compute whose best size is predicted; by default ten times the ladder's dearest run.", "FLOPs"
    )
    resamples: int = knob(200, "Bootstrap resamples behind the confidence intervals.", low=20)


@dataclass
class Search:
    """What a sweep tries, how it chooses, and when it gives a trial up."""

    name: Optional[str] = knob(
        None, "Name of the sweep; by default data-model-HASH, the hash of all that makes it.", is_name=True
    )
    dir: Optional[str] = knob(None, "Sweep directory; by default sweeps/NAME. All trials are in it.", common=True)
    space: dict[str, Any] = knob(
        {},
        "What is varied: search.space.KEY=loguniform(1e-4,1e-2), uniform(a,b), int(a,b), choice(x,y) or grid(x,y).",
        common=True,
    )
    trials: int = knob(16, "Trials; a grid and a ladder have as many as they have points.", common=True, low=1)
    scheduler: str = knob("asha", "Who stops trials early.", common=True, choices=("asha", "hyperband", "pbt", "none"))
    searcher: str = knob(
        "random", "Who chooses what is tried.", common=True, choices=("random", "grid", "tpe", "ladder")
    )
    seed: int = knob(0, "Seed of what is tried.")
    metric: Optional[str] = knob(
        None, "What is to be low; by default eval/validation/loss, without a validation set train/loss.", common=True
    )
    every: Optional[int] = knob(
        None,
        "Steps between a trial's reports, each an evaluation and a checkpoint; by default a tenth of the run.",
        "steps",
        common=True,
        low=1,
    )
    grace: Optional[int] = knob(
        None, "Steps before which no trial is stopped; by default search.every.", "steps", low=1
    )
    reduction: float = knob(3.0, "Of this many trials, one goes on at each rung (asha, hyperband).", low=1.1)
    perturb_every: Optional[int] = knob(
        None, "Steps after which pbt's worst trials go on from the best; by default search.every.", "steps", low=1
    )
    quantile: float = knob(0.25, "Share of trials that pbt replaces, and that they are replaced by.", high=0.5)
    ranks_per_trial: Optional[int] = knob(
        None, "Ranks of each trial, on one node; by default launch.processes, or 1.", common=True, low=1
    )
    max_concurrent: Optional[int] = knob(None, "Most trials at once; by default as many as there is room for.", low=1)
    ladder: Ladder = part(Ladder)

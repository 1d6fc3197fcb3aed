"""Refuses sweeps that can't be honoured, before Ray is started; each in one line."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from launch import groups
from launch.launchers import check_keys
from launch.overrides import SPACE, Names
from launch.sweep.plan import SweepPlan
from launch.sweep.space import Space, Values
from launch.verbs import VERBS
from trainer.config import Launch, Model, Search, Track
from trainer.errors import require
from trainer.rules.pretrain import check_pretrain
from trainer.run.directory import FIXED

PACKAGES = ("ray", "optuna", "scipy")
DEFAULT_METRIC = "eval/validation/loss"


def require_packages() -> None:
    """Refuses where what a sweep needs isn't installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    require(not missing, f'banyan sweep needs {", ".join(missing)}: pip install "banyan-train[sweep]".')


def check_launch(launch: Launch) -> None:
    """Refuses what no trial could have."""
    require(
        launch.name == "local",
        f"launch={launch.name}: the trials of a sweep run where Ray puts them; leave it out, and set RAY_ADDRESS "
        "for a cluster.",
    )
    check_keys(launch)


def pretrain_names(plan: SweepPlan) -> Names:
    """The names that a space may have."""
    verb = VERBS["pretrain"]
    assert verb.schema is not None
    return Names(verb, verb.schema, groups.folders(Path(plan.config_dir) if plan.config_dir else None))


def metric_of(search: Search, validation: Sequence[str], tasks: Sequence[str] = ()) -> str:
    """What trials are compared by: search.metric, or a validation loss, or the training loss where there is none."""
    if search.metric is None:
        return DEFAULT_METRIC if "validation" in validation else "train/loss"
    known = ["train/loss", *(f"eval/{name}/{kind}" for name in validation for kind in ("loss", "bits_per_byte"))]
    kind, _, rest = search.metric.partition("/")
    if kind == "eval" and rest.rpartition("/")[0] in tasks:  # a trial refuses a metric that the task doesn't have
        return search.metric
    known += [f"eval/{task}/METRIC" for task in tasks]
    require(
        search.metric in known,
        f"search.metric={search.metric}: trials don't have it; choose one of {', '.join(known)}.",
    )
    return search.metric


def without_length(overrides: Sequence[str]) -> Sequence[str]:
    """The overrides of a ladder. ConfigError if they say how long its runs are: the ladder does."""
    for text in overrides:
        require(
            not text.startswith(("train.steps=", "train.tokens=")),
            f"{text}: a ladder's runs are as long as search.ladder.tokens_per_parameter says; leave it out.",
        )
    return overrides


def check_sweep(search: Search, plan: SweepPlan, track: Track, space: Space, points: Sequence[Values] | None) -> None:
    """Every other check. What a trial may be given is composed and checked as the trial itself would."""
    check_choice(search, space)
    check_reports(search, plan, track)
    for values in sample_points(space, points) if space else points or []:
        check_pretrain(plan.compose(values), plan.ranks)
    if search.scheduler == "pbt":
        fixed = next((key for key in space if key.startswith((*FIXED, "model"))), None)
        require(
            fixed is None, f"{SPACE}{fixed}: pbt changes values in the middle of a run, where {fixed} can't change."
        )
        require(search.trials > 1, f"search.trials={search.trials}: pbt needs at least 2.")


def check_choice(search: Search, space: Space) -> None:
    """Refuses schedulers and searchers that don't go together."""
    scheduler, searcher = search.scheduler, search.searcher
    if searcher == "ladder":
        return
    require(
        bool(space), "nothing is varied: give search.space.KEY=…, as search.space.optimizer.lr=loguniform(1e-4,1e-2)."
    )
    require(
        scheduler != "pbt" or searcher == "random",
        f"search.searcher={searcher}: pbt draws its own values; use search.searcher=random.",
    )


def check_ladder(search: Search, model: Model) -> None:
    """Refuses what doesn't go with a ladder."""
    scheduler = search.scheduler
    require(scheduler == "none", f"search.scheduler={scheduler}: a ladder's runs go to their end; use none.")
    require(not search.space, "search.space: a ladder varies size and tokens alone; leave it out.")
    require(model.path is None, f"model.path={model.path}: a ladder widens our own decoder; use model=tiny.")


def check_reports(search: Search, plan: SweepPlan, track: Track) -> None:
    """Refuses reports that would never come."""
    require(
        plan.metric.startswith("eval/") or plan.every % track.every == 0,
        f"search.every={plan.every}: search.metric={plan.metric} is logged every {track.every} steps; make it a "
        "multiple of track.every.",
    )
    for key in ("grace", "perturb_every"):
        value = getattr(search, key)
        require(
            value is None or value % plan.every == 0,
            f"search.{key}={value}: trials report every {plan.every} steps (search.every); make it a multiple.",
        )


def sample_points(space: Space, points: Sequence[Values] | None) -> list[Values]:
    """Points that show whether all would be accepted: each value of a list, and the ends of a range, once."""
    base = points[0] if points else {key: distribution.samples()[0] for key, distribution in space.items()}
    return [base] + [
        base | {key: value}
        for key, distribution in space.items()
        for value in distribution.samples()
        if value != base[key]
    ]

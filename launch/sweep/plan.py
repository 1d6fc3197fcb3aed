"""A sweep as its trials see it: what each of them runs, and where. SWEEP/plan.json holds it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.compose import compose
from launch.ray.paths import COPIES
from launch.sweep.space import Values
from trainer.config import Pretrain, Search, as_stored_values, flatten
from trainer.errors import ConfigError
from trainer.evaluate.metrics.metric import prefers_high
from trainer.machine.durable import make_folder, write_json
from trainer.run import directory as run_directory

FILE = "plan.json"
# What a trial doesn't take part in of a run of its own, unless the user asks for it: seconds at its end.
BY_DEFAULT = ("evaluate.bigram=false", "evaluate.prompt=null")
# Said otherwise in a sweep, or meaningless: key → what to say instead.
SET_BY_SWEEP = {
    "run.name": "search.name",
    "run.dir": "search.dir",
    "evaluate.every": "search.every",
    "evaluate.tasks_every": "search.every",
    "checkpoint.every": "search.every",
    "train.stop_at": "train.steps",
    "checkpoint.dir": "no copies",
}
# Of search, what may change between the starts of one sweep: more trials, another shape, other pictures.
FREE = ("name", "dir", "trials", "ranks_per_trial", "max_concurrent", "ladder.resamples", "ladder.flops")


@dataclass(frozen=True)
class SweepPlan:
    """All that a trial needs to know of its sweep."""

    dir: str  # absolute
    name: str
    overrides: tuple[str, ...]  # what the user typed for pretrain
    config_dir: str | None  # absolute
    cwd: str | None  # relative paths of the overrides begin here; None: there are none
    metric: str
    every: int  # steps between reports
    steps: int  # of a whole trial, unless it varies them
    ranks: int
    threads: int
    has_segments: bool  # pbt: a trial's run may go on from another's
    reports_saved: bool  # a step is reported once its checkpoint is whole (pbt, hyperband)
    identity: dict[str, Any]

    @property
    def folder(self) -> Path:
        """The sweep directory."""
        return Path(self.dir)

    @property
    def prefers_high(self) -> bool:
        """Whether a high figure is a good one: of a task's accuracy, not of a loss."""
        return self.metric.startswith("eval/") and prefers_high(self.metric.rpartition("/")[2])

    @property
    def label(self) -> str:
        """What is made low: the metric, with a minus where a high one is good."""
        return f"-{self.metric}" if self.prefers_high else self.metric

    def loss_in(self, row: Mapping[str, Any]) -> float | None:
        """The metric in a row of metrics.jsonl, the lower the better; None where the row doesn't have it."""
        value = row.get(self.metric)
        return -value if value is not None and self.prefers_high else value

    @property
    def stop_file(self) -> Path:
        """While it is there, trials checkpoint and end."""
        return self.folder / "stop"

    def arguments(self, values: Values, *, run_dir: Path, fork_from: str | None = None) -> list[str]:
        """What is typed after `banyan pretrain` for a trial."""
        ours = [
            *(f"{key}={self.every}" for key in ("evaluate.every", "evaluate.tasks_every", "checkpoint.every")),
            *("launch=local", f"launch.processes={self.ranks}"),
            f"launch.threads={self.threads}",
            *(
                f"run.dir={run_dir}",
                f"run.name={self.name}-{'-'.join(run_dir.relative_to(self.folder / 'trials').parts)}",
            ),
            *([f"checkpoint.fork_from={fork_from}"] if fork_from else []),
        ]
        # Thousands of trials would leave three each. Under pbt and hyperband, trials go on from older ones.
        keep = [] if self.reports_saved else ["checkpoint.keep=1"]
        return last_of_each([*BY_DEFAULT, *keep, f"track.wandb.group={self.name}", *self.settings(values), *ours])

    def settings(self, values: Values) -> list[str]:
        """What the user typed for pretrain, and a trial's values."""
        return last_of_each([*self.overrides, *(f"{key}={value}" for key, value in values.items())])

    def compose(self, values: Values) -> Pretrain:
        """The configuration of a trial, without what is the sweep's. ConfigError if there is none."""
        config = compose("pretrain", self.settings(values), Path(self.config_dir) if self.config_dir else None)
        assert isinstance(config, Pretrain)
        return config

    def write(self) -> None:
        """Makes the sweep directory, or goes on in it. ConfigError if another sweep is in it."""
        path = self.folder / FILE
        if path.exists():
            check_same(SweepPlan.read(self.folder).identity, self.identity)
        make_folder(self.folder / "trials")
        write_json(path, dataclasses.asdict(self))

    @staticmethod
    def read(folder: Path) -> SweepPlan:
        """The plan of a sweep directory."""
        stored = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return SweepPlan(**{**stored, "overrides": tuple(stored["overrides"])})


def name_of(override: str) -> str:
    """The key or group of an override."""
    return override.lstrip("+~").partition("=")[0]


def last_of_each(overrides: Sequence[str]) -> list[str]:
    """Overrides without those that a later one of the same name takes the place of; Hydra wants a group once."""
    return list({name_of(override): override for override in overrides}.values())


def split_overrides(arguments: Sequence[str]) -> tuple[str, ...]:
    """What of a sweep's overrides is pretrain's. ConfigError for what a sweep sets itself."""
    ours = []
    for text in arguments:
        name = name_of(text)
        if name in SET_BY_SWEEP:
            raise ConfigError(f"{name}: a sweep sets that for its trials; use {SET_BY_SWEEP[name]}.")
        if name != "search" and not name.startswith("search."):
            ours.append(text)
    return tuple(ours)


def identity_of(search: Search, base: Pretrain, *, every: int, metric: str) -> dict[str, Any]:
    """All that makes a sweep what it is, flat: what the trials have in common, and how they are chosen and stopped."""
    chosen = flatten(dataclasses.asdict(search))
    ours = {f"search.{key}": value for key, value in chosen.items() if key not in FREE}
    return run_directory.identity(as_stored_values(base)) | ours | {"search.every": every, "search.metric": metric}


def name_sweep(search: Search, base: Pretrain, identity: dict[str, Any]) -> str:
    """search.name, or data-model-HASH: another sweep gets another name, and so never goes on with this one."""
    text = json.dumps(identity, sort_keys=True)
    return search.name or f"{base.data.name}-{base.model.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def locate_sweep(search: Search, name: str) -> Path:
    """search.dir, or sweeps/NAME; absolute. ConfigError in a Ray job, whose folder is a copy that is thrown away."""
    path = Path(search.dir or Path("sweeps") / name).expanduser()
    if not path.is_absolute() and COPIES in os.getcwd():
        raise ConfigError(
            f"search.dir={path} is relative, and this job stands in a copy of --working-dir that Ray deletes: give an "
            "absolute path on storage that all nodes share, as search.dir=/shared/…"
        )
    return path.absolute()


def check_same(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuses to go on with a sweep as another one."""
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise ConfigError(
                f"{key}: {before.get(key)} → {now.get(key)} can't change in a sweep: set it back, or begin another "
                "with search.name."
            )

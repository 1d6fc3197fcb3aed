"""The best configuration as a file that pretrain composes: SWEEP/conf/experiment/best.yaml."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from launch.compose import compose
from launch.sweep.plan import SweepPlan
from launch.sweep.results import Result
from trainer.machine.durable import make_folder, write_text
from trainer.machine.environment import as_composable
from trainer.run.directory import DATA_KEYS

NAME = "best"


def write_best(plan: SweepPlan, best: Result) -> Path:
    """Writes all in which the best trial differs from pretrain's defaults, and returns the folder for --config-dir.

    Of the data, not what they were prepared from.
    """
    config, defaults = plan.compose(best.values), compose("pretrain", [])
    changed = difference(dataclasses.asdict(defaults), dataclasses.asdict(config))
    changed["data"] = {key: value for key, value in changed.get("data", {}).items() if key in ("name", *DATA_KEYS)}
    folder = plan.folder / "conf" / "experiment"
    make_folder(folder)
    head = (
        "# @package _global_\n"
        f"# The best of sweep {plan.name}: trial {best.number:05d}, {plan.label} {best.loss:.4f} "
        f"after {best.points[-1].step} steps.\n"
    )
    if plan.has_segments:
        head += f"# Its values are those of its last segment; trials/{best.number:05d}/trial.json has all.\n"
    body = yaml.safe_dump(
        as_composable({key: value for key, value in changed.items() if value != {}}),
        sort_keys=False,
        allow_unicode=True,
    )
    write_text(folder / f"{NAME}.yaml", head + body)
    return folder.parent


def difference(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """What of `new` isn't so in `old`, nested as it is there."""
    found = {}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            if inner := difference(before, value):
                found[key] = inner
        elif value != before:
            found[key] = value
    return found

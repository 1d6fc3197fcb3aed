"""Which run directories are meant by the folders that a verb was given: runs themselves, or folders of runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from trainer.errors import ConfigError, InputError

CONFIG = "config.yaml"
DEPTH = 3  # folders below the one that is named; a sweep's runs are in trials/NNNNN/run
MOST_RUNS = 10_000
NEVER_RUNS = ("checkpoints", "logs", "wandb", "tokenizer", "model", "tensorboard", "export", "evaluations", "profile")


def is_run(folder: Path) -> bool:
    """Whether it is a run directory, or is about to be one."""
    return (folder / CONFIG).is_file() or (folder / "heartbeats").is_dir() or (folder / "checkpoints").is_dir()


def is_sweep(folder: Path) -> bool:
    """Whether it is the folder of a sweep."""
    return (folder / "plan.json").is_file() and (folder / "trials").is_dir()


def find_runs(folders: Sequence[str]) -> list[Path]:
    """The run directories that are named, and those inside other folders that are. ConfigError where there are none."""
    found: list[Path] = []
    for name in folders:
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"{name}: there is no such folder; name a run directory, as runs/NAME.")
        inside = [folder] if is_run(folder) else _inside(folder, DEPTH)
        if not inside:
            raise InputError(f"{name}: no run directory, and none in it; name one that `banyan pretrain` made.")
        found += inside
        if len(found) > MOST_RUNS:
            raise ConfigError(f"{name}: more than {MOST_RUNS:,} runs; name fewer.")
    return list(dict.fromkeys(found))


def _inside(folder: Path, depth: int) -> list[Path]:
    found: list[Path] = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if not entry.is_dir(follow_symlinks=False) or entry.name in NEVER_RUNS:
            continue
        if is_run(path):
            found.append(path)
        elif depth > 1:
            found += _inside(path, depth - 1)
    return found

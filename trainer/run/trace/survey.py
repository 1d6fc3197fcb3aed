"""What is below some folders: data sets, runs, and exports of runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trainer.checkpoint.lineage_file import FILE as LINEAGE
from trainer.config import flatten
from trainer.config.stored import load_values
from trainer.data.text.remote import is_remote
from trainer.data.tokens.manifest import FILE as MANIFEST
from trainer.data.tokens.manifest import Manifest, datasets_in, read_manifest
from trainer.errors import BanyanError, ConfigError
from trainer.run.run_folders import CONFIG, is_run

DEPTH = 5  # of folders below those that are named
MOST_FOLDERS = 100_000
SKIPPED = ("tokenizer", "wandb")


@dataclass
class Survey:
    """What was found, each once. `problems` are files that can't be read."""

    looked: list[str]
    datasets: list[Manifest] = field(default_factory=list)
    runs: list[Path] = field(default_factory=list)
    exports: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add_datasets(self, folder: Path) -> None:
        """Adds the data sets in a folder."""
        known = {manifest.folder for manifest in self.datasets}
        try:
            found = [read_manifest(each) for each in datasets_in(folder) if each.resolve() not in known]
        except BanyanError as error:
            self.problems.append(str(error))
            return
        self.datasets += [replace(manifest, folder=manifest.folder.resolve()) for manifest in found]


def survey_folders(folders: Sequence[Path]) -> Survey:
    """Looks below folders, and at the data that the runs there name. ConfigError where one isn't there."""
    found = Survey([str(folder) for folder in folders])
    seen = 0
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: there is no such folder; name those that your runs and data are in.")
        for place in _folders(folder, DEPTH):
            seen += 1
            if seen > MOST_FOLDERS:
                found.problems.append(f"{folder}: more than {MOST_FOLDERS:,} folders: not all were looked at.")
                break
            if is_run(place):
                found.runs.append(place.resolve())
            if (place / MANIFEST).is_file():
                found.add_datasets(place)
            if (place / LINEAGE).is_file():
                found.exports.append(place.resolve())
    found.runs, found.exports = list(dict.fromkeys(found.runs)), list(dict.fromkeys(found.exports))
    for run_dir in found.runs:
        for path in data_paths(run_values(run_dir)):
            if Path(path).is_dir():
                found.add_datasets(Path(path))
    return found


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    """A folder and those below it; of a run, its exports alone."""
    yield folder
    if depth == 0:
        return
    inside = folder / "export" if is_run(folder) else folder
    with contextlib.suppress(OSError):
        for entry in sorted(os.scandir(inside), key=lambda each: each.name):
            if entry.is_dir(follow_symlinks=False) and entry.name[0] != "." and entry.name not in SKIPPED:
                yield from _folders(Path(entry.path), depth - 1)


def run_values(run_dir: Path) -> dict[str, Any]:
    """A run's configuration, flat; {} where it can't be read."""
    try:
        return flatten(load_values(run_dir / CONFIG))
    except BanyanError:
        return {}


def data_paths(values: dict[str, Any]) -> list[str]:
    """The folders of data that a configuration names, those on this disk."""
    found = [
        value
        for key, value in values.items()
        if isinstance(value, str)
        and (key == "data.path" or (key.startswith(("data.train.", "data.validation.")) and key.endswith(".path")))
    ]
    return [value for value in found if not is_remote(value)]

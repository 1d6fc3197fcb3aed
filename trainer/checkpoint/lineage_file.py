"""What an export was made from: lineage.json in its folder, and a line for it in the run's exports.jsonl."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from trainer.checkpoint.complete import COMPLETE, describe
from trainer.checkpoint.folders import step_of
from trainer.machine.durable import require_plain_file, write_json
from trainer.machine.json_file import Count, Malformed, Xxh3, from_known, parse_json, read_json, read_regular

FILE, NOTED = "lineage.json", "exports.jsonl"
MOST_NOTED = 10_000


@dataclass(frozen=True)
class ExportLineage:
    """The run and the checkpoints that an export is the mean of: `complete` has the hash of each one's COMPLETE."""

    run: str
    run_dir: str
    form: str
    complete: dict[str, Xxh3]  # by step

    @property
    def steps(self) -> list[int]:
        """Of the checkpoints, in ascending order."""
        return sorted(int(step) for step in self.complete if step.isdecimal())


@dataclass(frozen=True)
class NotedExport:
    """An export as its run has noted it."""

    folder: str
    form: str
    steps: tuple[Count, ...]


def lineage_of(checkpoints: Sequence[Path], run: str, form: str) -> ExportLineage:
    """Of an export of whole checkpoints of one run."""
    complete = {str(step_of(each.name) or 0): describe(each / COMPLETE)["xxh3_128"] for each in checkpoints}
    return ExportLineage(run, str(checkpoints[0].parents[1].resolve()), form, complete)


def write_lineage(folder: Path, lineage: ExportLineage) -> None:
    """Writes it into an export's folder."""
    write_json(folder / FILE, asdict(lineage))


def read_lineage(folder: Path) -> ExportLineage | None:
    """Of an export's folder; None where it states none, or nothing that can be read."""
    try:
        return from_known(ExportLineage, read_json(folder / FILE))
    except (FileNotFoundError, Malformed):
        return None


def note_export(run_dir: Path, folder: Path, lineage: ExportLineage) -> None:
    """Adds an export to those that the run has noted. OSError or StorageError where it can't be written."""
    path = run_dir / NOTED
    require_plain_file(path)
    line = json.dumps(asdict(NotedExport(str(folder.resolve()), lineage.form, tuple(lineage.steps)))).encode() + b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        os.write(descriptor, line)  # one write: exports of a run may be made side by side
    finally:
        os.close(descriptor)


def read_noted(run_dir: Path) -> list[NotedExport]:
    """The exports that a run has noted, the first that were made first. Lines that say nothing are left alone."""
    try:
        lines = read_regular(run_dir / NOTED).splitlines()[:MOST_NOTED]
    except (OSError, Malformed):
        return []
    found = []
    for line in lines:
        try:
            found.append(from_known(NotedExport, parse_json(line)))
        except Malformed:
            continue
    return found

"""What a trace has found. Folders are as they are on this disk; steps are counted from 1."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TracedSet:
    """A data set. `folder` is None where none on this disk has its fingerprint: a run has read it."""

    fingerprint: str
    name: str
    folder: str | None
    documents: int
    tokens: int
    shards: int
    licences: tuple[str, ...]


@dataclass(frozen=True)
class TracedDocument:
    """A document: where it came from, and the tokens [start, stop) of the shard that it is."""

    xxh3: str
    source: str
    record: int
    bytes: int
    licence: str | None
    fingerprint: str
    shard: str
    start: int
    stop: int


@dataclass(frozen=True)
class TakenRows:
    """What a run has taken of a data set: rows, in all epochs, and the first and the last step that took one."""

    dataset: str
    fingerprint: str
    rows: int
    first_step: int
    last_step: int


@dataclass(frozen=True)
class DocumentReading:
    """Steps at which a run has read a document, and the positions of the rows that had it. `skipped` of the steps made
    no update."""

    xxh3: str
    fingerprint: str
    steps: tuple[int, ...]
    positions: tuple[int, ...]
    skipped: tuple[int, ...] = ()


@dataclass(frozen=True)
class TracedCheckpoint:
    """A checkpoint of a run that was saved after what is traced was read."""

    step: int
    folder: str
    whole: bool


@dataclass(frozen=True)
class TracedExport:
    """An export of such checkpoints. `there` where its folder is."""

    folder: str
    form: str
    steps: tuple[int, ...]
    there: bool


@dataclass(frozen=True)
class TracedRun:
    """A run. `begun_from` is the run or folder that its first weights were; `problem` what couldn't be told."""

    name: str
    run_dir: str
    state: str
    step: int
    takes: tuple[TakenRows, ...]
    readings: tuple[DocumentReading, ...]
    checkpoints: tuple[TracedCheckpoint, ...]
    exports: tuple[TracedExport, ...]
    begun_from: str | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Trace:
    """All that was found of what was asked for."""

    wanted: str
    kind: str  # document, data set, run, checkpoint or export
    documents: tuple[TracedDocument, ...]
    datasets: tuple[TracedSet, ...]
    runs: tuple[TracedRun, ...]
    looked: tuple[str, ...]
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return dataclasses.asdict(self)

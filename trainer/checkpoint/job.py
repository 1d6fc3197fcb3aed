"""One checkpoint on its way from host memory to the disk, and to the object store: what a thread of each rank does.

Threads run no collectives: ranks leave each other notes (notes.py). Each writes its part of a data file; rank 0 waits
for all of them, writes the index, state.json and COMPLETE, and renames the folder. Then each copies its share of the
files to the object store, if there is one, and rank 0 COMPLETE when all have.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from trainer.checkpoint.complete import COMPLETE, ENCRYPTION, STATE, Hashed, StoredFile, describe, read_complete
from trainer.checkpoint.data_file import DataFile
from trainer.checkpoint.index import INDEX, encode, read_index
from trainer.checkpoint.merge import merge_indexes
from trainer.checkpoint.notes import Notes
from trainer.checkpoint.object_store import ObjectStore
from trainer.checkpoint.snapshot import Snapshot
from trainer.checkpoint.state import FORMAT
from trainer.machine.durable import problem_of, sync, write_bytes, write_json
from trainer.machine.sealing.keyring import KEYRING

WRITTEN, WHOLE, COPIED = "written", "whole", "copied"  # kinds of notes


@dataclass
class MergedIndex:
    """The last index that rank 0 merged: it stays the same as long as those of all ranks do."""

    ranks: list[str] = field(default_factory=list)  # file and hash of each rank's
    content: bytes = b""


@dataclass
class Job:
    """`run` is what the thread does; `retain` and `retain_copies` what rank 0 does once it is whole, here and there."""

    folder: Path  # of the attempt and the notes; gone when it has ended
    target: Path
    rank: int
    world_size: int
    say: Callable[[str], None]
    retain_copies: Callable[[], None]
    retain: Callable[[], None] = lambda: None
    data_file: DataFile | None = None
    snapshot: Snapshot | None = None  # None: the checkpoint is whole already, and only to be copied
    state: dict[str, Any] = field(default_factory=dict)
    store: ObjectStore | None = None
    merged: MergedIndex = field(default_factory=MergedIndex)
    problem: str | None = None  # why this rank's part wasn't written
    copy_problem: str | None = None  # why this rank's share wasn't copied to the store
    failure: str | None = None  # on rank 0: what went wrong on any rank, in a line
    written: threading.Event = field(default_factory=threading.Event)
    decided: threading.Event = field(default_factory=threading.Event)  # on rank 0: copies begin, or never will
    copied: threading.Event = field(default_factory=threading.Event)  # this rank's share, or it never will be
    stop: threading.Event = field(default_factory=threading.Event)  # some rank has failed: wait for it no longer
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._only_copies = self.snapshot is None

    @property
    def attempt(self) -> Path:
        """The checkpoint before it is whole."""
        return self.folder / self.target.name

    @property
    def notes(self) -> Notes:
        """What ranks tell each other."""
        return Notes(self.folder / "notes")

    def start(self) -> None:
        """Begins, in a thread that doesn't keep the process alive."""
        self.thread = threading.Thread(target=self.run, name="checkpoint-writer", daemon=True)
        self.thread.start()

    def run(self) -> None:
        """Writes this rank's part; on rank 0, completes the checkpoint. Then the same for the object store."""
        self.problem = None if self._only_copies else problem_of(lambda: write_rank(self))
        self.snapshot = None  # gives the host memory back
        if self.problem:
            problem_of(lambda: self.notes.fail(self.rank, str(self.problem)))
        self.written.set()
        if self.rank == 0:
            self._finish()
        elif self.store is not None and self.notes.wait_for_main(WHOLE, self.stop):
            self._copy_share(self.store)
        self.decided.set()
        self.copied.set()

    def _finish(self) -> None:
        """Rank 0's part after its own."""
        problem = None if self._only_copies else self._complete()
        if problem:
            self.failure = not_written(self.target, problem)
        elif self.store is not None and (problem := self._copy(self.store)):
            self.failure = f"{self.target}: whole, but not copied to checkpoint.dir={self.store.url} ({problem})."
        self.remove_folder()  # after a failure its space may be what is missing
        if self.failure:
            self.say(self.failure)

    def remove_folder(self) -> None:
        """Removes the notes, and what there is of an attempt that failed."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _complete(self) -> str | None:
        problem = self._wait_for(WRITTEN, self.problem) or problem_of(lambda: complete(self))
        if problem is None:
            self.retain()
        return problem

    def _wait_for(self, kind: str, own: str | None) -> str | None:
        if own:
            return own
        found: list[str | None] = []
        return problem_of(lambda: found.append(self.notes.wait_for_all(kind, self.world_size, self.stop))) or found[0]

    def _copy(self, store: ObjectStore) -> str | None:
        """Copies the whole checkpoint with all ranks; COMPLETE, at the end, makes it one there."""
        problem = problem_of(lambda: store.begin_upload(self.target))
        if problem:
            return problem
        if problem := problem_of(lambda: self.notes.leave(0, WHOLE)):
            return problem
        self.decided.set()
        self._copy_share(store)
        self.copied.set()
        problem = self._wait_for(COPIED, self.copy_problem) or problem_of(lambda: store.end_upload(self.target))
        if problem is None:
            self.retain_copies()
        return problem

    def _copy_share(self, store: ObjectStore) -> None:
        self.copy_problem = problem_of(lambda: store.upload_share(self.target, self.rank, self.world_size))
        if self.copy_problem:
            problem_of(lambda: self.notes.fail(self.rank, str(self.copy_problem)))
        else:
            self.copy_problem = problem_of(lambda: self.notes.leave(self.rank, COPIED))


def not_written(target: Path, problem: str) -> str:
    """The line that says so."""
    return f"{target}: not written ({problem}); earlier checkpoints are untouched."


def write_rank(job: Job) -> None:
    """Writes one rank's part durably, and then the note that it is there: a line of JSON, and the rank's index."""
    assert job.snapshot is not None
    assert job.data_file is not None
    hashed = job.data_file.write(job.attempt, job.rank, job.snapshot.tensors)
    index = encode(job.snapshot.names, job.snapshot.columns)
    line = {"file": job.data_file.name, "part": asdict(hashed), "index": xxhash.xxh3_128_hexdigest(index)}
    job.notes.leave(job.rank, WRITTEN, json.dumps(line).encode() + b"\n" + index)


def complete(job: Job) -> None:
    """Makes a checkpoint of an attempt that every rank has written: index, state, COMPLETE, then its name.

    The index is the last one's again unless a rank's has changed. A new one is read as a load would: should ranks have
    left an element out, that is found while the run still has it.
    """
    folder, target = job.attempt, job.target
    lines = [read_written(job.notes.path(rank, WRITTEN)) for rank in range(job.world_size)]
    ranks = [f"{line['file']} {line['index']}" for line in lines]
    is_new = ranks != job.merged.ranks
    index = _merge(job, lines) if is_new else job.merged.content
    parts: dict[str, list[Hashed]] = {}
    for line in lines:
        parts.setdefault(line["file"], []).append(Hashed(**line["part"]))
    write_bytes(folder / INDEX, index)
    write_json(folder / STATE, {"format": FORMAT, **job.state})
    files = {name: StoredFile.of_parts(each) for name, each in parts.items()}
    files |= {name: describe(folder / name) for name in (INDEX, STATE)}
    write_json(folder / COMPLETE, {"files": files, **_encryption(job)})
    if is_new:
        read_index(folder / INDEX, read_complete(folder))
        job.merged.content, job.merged.ranks = index, ranks
    sync(folder)
    if target.exists():
        shutil.rmtree(target)  # of the same step, and broken: a whole one would have been resumed from
    folder.rename(target)
    sync(target.parent)


def _encryption(job: Job) -> dict[str, Any]:
    """What COMPLETE says of the key of encrypted files: so a copy of the checkpoint has it."""
    assert job.data_file is not None
    file = job.attempt / job.data_file.name
    envelope = KEYRING.envelope_above(file) if KEYRING.data_key_for(file) else None
    return {ENCRYPTION: [asdict(envelope.keys[0])]} if envelope else {}


def read_written(path: Path) -> dict[str, Any]:
    """The first line of the note that a rank has written its part."""
    with path.open("rb") as file:
        return dict(json.loads(file.readline()))


def _merge(job: Job, lines: list[dict[str, Any]]) -> bytes:
    """The index of the checkpoint, of every rank's."""
    indexes = (job.notes.path(rank, WRITTEN).read_bytes().partition(b"\n")[2] for rank in range(job.world_size))
    return merge_indexes(indexes, [line["file"] for line in lines])

"""Writes checkpoints: the training thread copies its state to host memory, a thread of each rank makes that durable.

Threads run no collectives. Each rank's writes rank-N.safetensors, then rank-N.json (or rank-N.failed), into the
attempt's folder; rank 0's waits for all of them, writes state.json and COMPLETE, and renames the folder.
"""

from __future__ import annotations

import json
import shutil
import threading
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from trainer.checkpoint.folders import PARTIAL, folder_of, list_steps
from trainer.checkpoint.fragment import Fragment
from trainer.checkpoint.object_store import ObjectStore
from trainer.checkpoint.reader import COMPLETE, FORMAT, STATE, describe, kept_steps
from trainer.config import Checkpoint
from trainer.errors import StorageError
from trainer.machine.durable import problem_of, sync, write_json
from trainer.ranks.mesh import Mesh

POLL_S = 0.02
LAST_WAIT_S = 30.0  # that a run which ends by an error waits for what is being written


@dataclass(frozen=True)
class Snapshot:
    """What one rank writes: copies of its fragments in host memory, by key, and the index that describes them."""

    tensors: dict[str, torch.Tensor]
    index: list[dict[str, Any]]


def take_snapshot(fragments: Iterable[Fragment], file: str) -> Snapshot:
    """Copies `fragments`, which are to be written to `file`; the copies are finished when it returns."""
    tensors: dict[str, torch.Tensor] = {}
    index = []
    for fragment in fragments:
        region = fragment.region
        for kind, view in fragment.views.items():
            key = f"{kind}:{fragment.parameter}:{region.start}"
            tensors[key] = _host_copy(view.detach())
            index.append(
                {
                    "parameter": fragment.parameter,
                    "shape": list(region.shape),
                    "slice": asdict(region.slice) if region.slice else None,
                    "start": region.start,
                    "stop": region.stop,
                    "kind": kind,
                    "file": file,
                    "tensor": key,
                }
            )
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Snapshot(tensors, index)


def _host_copy(view: torch.Tensor) -> torch.Tensor:
    if view.device.type != "cuda":
        return view.clone(memory_format=torch.contiguous_format)  # .cpu() would alias
    copy = torch.empty(view.shape, dtype=view.dtype, pin_memory=True)
    return copy.copy_(view, non_blocking=True)


@dataclass
class Job:
    """One checkpoint on its way from host memory to the disk, on one rank; `run` is what the thread does.

    `then` is rank 0's work once the checkpoint is whole; it returns what went wrong with it, in a line.
    """

    attempt: Path
    target: Path
    rank: int
    world_size: int
    snapshot: Snapshot | None
    state: dict[str, Any]
    then: Callable[[], str | None]
    say: Callable[[str], None]
    problem: str | None = None  # why this rank's files weren't written
    failure: str | None = None  # on rank 0: what went wrong on any rank, in a line
    written: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)  # some rank has failed: wait for it no longer
    thread: threading.Thread = field(init=False)

    def start(self) -> None:
        """Begins, in a thread that doesn't keep the process alive."""
        self.thread = threading.Thread(target=self.run, name="checkpoint-writer", daemon=True)
        self.thread.start()

    def run(self) -> None:
        """Writes this rank's files; on rank 0, completes the checkpoint."""
        self.problem = problem_of(self._write)
        self.snapshot = None  # gives the host memory back
        if self.problem:
            problem_of(lambda: (self.attempt / f"rank-{self.rank:05d}.failed").write_text(str(self.problem), "utf-8"))
        self.written.set()
        if self.rank == 0:
            problem = self._wait_for_ranks() or problem_of(lambda: complete(self))
            if problem:
                shutil.rmtree(self.attempt, ignore_errors=True)  # its space may be what is missing
                self.failure = not_written(self.target, problem)
            else:
                self.failure = self.then()
            if self.failure:
                self.say(self.failure)

    def _write(self) -> None:
        assert self.snapshot is not None
        write_rank(self.attempt, self.rank, self.snapshot)

    def _wait_for_ranks(self) -> str | None:
        """Returns once every rank's files are there, or with the problem of one that failed."""
        missing = set(range(self.world_size))
        while missing:
            for rank in sorted(missing):
                if self.rank == rank and self.problem:
                    return self.problem
                failed = self.attempt / f"rank-{rank:05d}.failed"
                if failed.exists():
                    return f"rank {rank}: {failed.read_text('utf-8')}"
                if (self.attempt / f"rank-{rank:05d}.json").exists():
                    missing.discard(rank)
            if missing and self.stop.wait(POLL_S):
                return "another rank failed"
        return None


class CheckpointWriter:
    """One rank's part in writing a run's checkpoints; every rank calls its methods at the same steps.

    A checkpoint that can't be written doesn't end the run, unless it is the last one: the former stays the newest, a
    line says so, and the next save tries again. A context manager: an error on its way out waits for what is pending.
    """

    def __init__(
        self,
        run_dir: Path,
        mesh: Mesh,
        settings: Checkpoint,
        say: Callable[[str], None],
        store: ObjectStore | None = None,
    ) -> None:
        self._run_dir = run_dir
        self._mesh = mesh
        self._settings = settings
        self._say = say
        self._store = store
        self._job: Job | None = None

    def save(
        self, fragments: Iterable[Fragment], state: dict[str, Any], *, best: int | None = None, last: bool = False
    ) -> None:
        """Snapshots the state of state["step"] and begins to write it, once the former save has ended.

        `best` is a step that retention keeps. With `last` it returns when the checkpoint is durable, and raises
        StorageError on every rank if it can't be.
        """
        self._settle()
        target = folder_of(self._run_dir, state["step"])
        folder, problem = self._mesh.from_main(_begin(target) if self._mesh.is_main else (target, None))
        failure = not_written(target, problem) if problem else None
        if failure is None:
            snapshot = take_snapshot(fragments, f"rank-{self._mesh.rank:05d}.safetensors")
            self._job = Job(
                folder,
                target,
                self._mesh.rank,
                self._mesh.world_size,
                snapshot,
                state,
                then=lambda: self._retain_and_copy(target, best),
                say=lambda line: None if last else self._say(f"{line} The run goes on, and the next save tries again."),
            )
            self._job.start()
            if last or not self._settings.asynchronous:
                failure = self._settle()
        elif self._mesh.is_main and not last:
            self._say(f"{failure} The run goes on, and the next save tries again.")
        if failure and last:
            raise StorageError(f"{failure} Mend that, and start the same command again.")

    def _settle(self) -> str | None:
        """Waits until what is being written has ended, on every rank; why it failed, in a line, or None."""
        job, self._job = self._job, None
        if job is None:
            return None
        job.written.wait()
        problem = self._mesh.first(job.problem)
        if problem:
            job.stop.set()  # a full disk may have kept its rank from saying so
        job.thread.join()
        if self._mesh.is_main and problem:
            shutil.rmtree(job.attempt, ignore_errors=True)  # what others wrote after rank 0 had removed it
        return self._mesh.from_main(job.failure)

    def _retain_and_copy(self, folder: Path, best: int | None) -> str | None:
        """Removes what retention doesn't keep and copies the rest to checkpoint.dir; a line if it can't be copied."""
        rule: dict[str, Any] = {"keep": self._settings.keep, "keep_every": self._settings.keep_every, "best": best}
        if problem := problem_of(lambda: retain(self._run_dir, **rule)):
            self._say(f"{folder.parent}: old checkpoints can't be removed ({problem}).")
        if self._store is None:
            return None
        store = self._store
        if problem := problem_of(lambda: store.upload(folder)):
            return f"{folder}: whole, but not copied to checkpoint.dir={store.url} ({problem})."
        if problem := problem_of(lambda: store.retain(**rule)):
            self._say(f"checkpoint.dir={store.url}: old checkpoints can't be removed ({problem}).")
        return None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._job is not None:
            self._job.thread.join(LAST_WAIT_S)  # no longer: a peer may be dead


def not_written(target: Path, problem: str) -> str:
    """The line that says so."""
    return f"{target}: not written ({problem}); earlier checkpoints are untouched."


def _begin(target: Path) -> tuple[Path, str | None]:
    """Makes the folder of an attempt at `target`, and says why it couldn't."""
    folder = target.with_name(f"{target.name}.partial-{uuid.uuid4().hex[:8]}")
    return folder, problem_of(lambda: folder.mkdir(parents=True))


def write_rank(folder: Path, rank: int, snapshot: Snapshot) -> None:
    """Writes one rank's two files durably; rank-NNNNN.json comes last, and says that both are there."""
    from safetensors.torch import save_file

    file = f"rank-{rank:05d}.safetensors"
    save_file(snapshot.tensors, folder / file)
    sync(folder / file)
    content = {"fragments": snapshot.index, "files": {file: describe(folder / file)}}
    write_json(folder / f"rank-{rank:05d}.json", content)


def complete(job: Job) -> None:
    """Makes a checkpoint of an attempt that every rank has written: COMPLETE, then its name."""
    folder, target = job.attempt, job.target
    write_json(folder / STATE, {"format": FORMAT, **job.state})
    files: dict[str, Any] = {}
    for rank in range(job.world_size):
        name = f"rank-{rank:05d}.json"
        files |= json.loads((folder / name).read_text("utf-8"))["files"]
        files[name] = describe(folder / name)
    files[STATE] = describe(folder / STATE)
    write_json(folder / COMPLETE, {"files": files})
    sync(folder)
    if target.exists():
        shutil.rmtree(target)  # of the same step, and broken: a whole one would have been resumed from
    folder.rename(target)
    sync(target.parent)


def remove_attempts(run_dir: Path) -> None:
    """Removes what killed writers left. Rank 0 calls it before the first save."""
    root = run_dir / "checkpoints"
    for entry in root.iterdir() if root.is_dir() else ():
        if PARTIAL.fullmatch(entry.name):
            shutil.rmtree(entry, ignore_errors=True)


def retain(run_dir: Path, *, keep: int, keep_every: int, best: int | None) -> None:
    """Removes all but the newest `keep` whole checkpoints, every `keep_every`-th, and the `best` one."""
    whole = [step for step in list_steps(run_dir) if (folder_of(run_dir, step) / COMPLETE).is_file()]
    for step in set(whole) - kept_steps(whole, keep=keep, keep_every=keep_every, best=best):
        folder = folder_of(run_dir, step)
        if folder.is_symlink():
            continue  # what it leads to isn't the run's alone
        (folder / COMPLETE).unlink()  # from here on it doesn't count, however far the removal comes
        shutil.rmtree(folder, ignore_errors=True)

"""Writes checkpoints: the training thread copies its state to host memory, a thread of each rank makes that durable."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from trainer.checkpoint.data_file import DataFile, group_of
from trainer.checkpoint.folders import folder_of, step_of
from trainer.checkpoint.fragment import Fragment
from trainer.checkpoint.job import Job, MergedIndex, not_written
from trainer.checkpoint.object_store import ObjectStore
from trainer.checkpoint.retention import retain
from trainer.checkpoint.snapshot import take_snapshot
from trainer.config import Checkpoint
from trainer.errors import StorageError
from trainer.machine.durable import problem_of
from trainer.ranks.mesh import Mesh

LAST_WAIT_S = 30.0  # that a run which ends by an error waits for what is being written


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
        self._merged = MergedIndex()

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
            snapshot = take_snapshot(fragments, self._mesh.rank)
            self._job = Job(
                folder=folder,
                target=target,
                rank=self._mesh.rank,
                world_size=self._mesh.world_size,
                say=lambda line: None if last else self._say(f"{line} The run goes on, and the next save tries again."),
                retain_copies=lambda: self._retain_copies(best),
                retain=lambda: self._retain(best),
                data_file=self._data_file(snapshot.elements),
                snapshot=snapshot,
                state=state,
                store=self._store,
                merged=self._merged,
            )
            del snapshot  # the job gives its memory back
            self._job.start()
            if last or not self._settings.asynchronous:
                failure = self._settle()
        elif self._mesh.is_main and not last:
            self._say(f"{failure} The run goes on, and the next save tries again.")
        if failure and last:
            raise StorageError(f"{failure} Mend that, and start the same command again.")

    def settle(self) -> None:
        """Returns once the save that is under way has ended, well or not; every rank calls it."""
        self._settle()

    def copy_again(self, folder: Path) -> None:
        """Begins to copy a checkpoint of this run to the object store if it isn't there: the former start was killed.

        Every rank calls it, before the first save.
        """
        store = self._store
        if store is None or folder.parent != self._run_dir / "checkpoints":
            return
        attempt, problem = self._mesh.from_main(
            self._begin_copy(store, folder) if self._mesh.is_main else (folder, None)
        )
        if problem:
            if self._mesh.is_main:
                self._say(f"{folder}: not copied to checkpoint.dir={store.url} ({problem}).")
        elif attempt is not None:
            self._job = Job(
                folder=attempt,
                target=folder,
                rank=self._mesh.rank,
                world_size=self._mesh.world_size,
                say=self._say,
                retain_copies=lambda: None,
                store=store,
            )
            self._job.start()

    @staticmethod
    def _begin_copy(store: ObjectStore, folder: Path) -> tuple[Path | None, str | None]:
        """The folder for notes, None if the checkpoint is there; or why it can't be made or known."""
        there: list[int] = []
        problem = problem_of(lambda: there.extend(store.steps()))
        if problem or step_of(folder.name) in there:
            return None, problem
        return _begin(folder)

    def _data_file(self, elements: int) -> DataFile:
        """The file that this rank writes to; where ranks share files, they tell each other how much each has."""
        writers, mesh = self._settings.writers, self._mesh
        if not writers or writers == mesh.world_size:
            return DataFile(mesh.rank, (elements,))
        group = group_of(mesh.rank, mesh.world_size, writers)
        return DataFile(group.start, tuple(mesh.gather(elements)[group.start : group.stop]))

    def _settle(self) -> str | None:
        """Waits until what is being written has ended, on every rank; why it failed, in a line, or None."""
        job, self._job = self._job, None
        if job is None:
            return None
        job.written.wait()
        problem = self._mesh.first(job.problem)
        if problem:
            job.stop.set()  # a full disk may have kept its rank from saying so
        elif self._store is not None:
            self._settle_copy(job)
        job.thread.join()
        if self._mesh.is_main and problem:
            job.remove_folder()  # what others wrote after rank 0 had removed it
        return self._mesh.from_main(job.failure)

    def _settle_copy(self, job: Job) -> None:
        """Waits until every rank's share is in the object store, or one has failed."""
        if self._mesh.is_main:
            job.decided.wait()
        if self._mesh.from_main(job.failure):
            job.stop.set()
        job.copied.wait()
        if self._mesh.first(job.copy_problem):
            job.stop.set()

    def _retain(self, best: int | None) -> None:
        """Removes what retention doesn't keep."""
        if problem := problem_of(lambda: retain(self._run_dir, **self._rule(best))):
            self._say(f"{self._run_dir / 'checkpoints'}: old checkpoints can't be removed ({problem}).")

    def _retain_copies(self, best: int | None) -> None:
        """The same in the object store."""
        store = self._store
        assert store is not None
        if problem := problem_of(lambda: store.retain(**self._rule(best))):
            self._say(f"checkpoint.dir={store.url}: old checkpoints can't be removed ({problem}).")

    def _rule(self, best: int | None) -> dict[str, Any]:
        return {"keep": self._settings.keep, "keep_every": self._settings.keep_every, "best": best}

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._job is not None:
            self._job.thread.join(LAST_WAIT_S)  # no longer: a peer may be dead


def _begin(target: Path) -> tuple[Path, str | None]:
    """Makes the folder of an attempt at `target`, with one for notes, and says why it couldn't."""
    folder = target.with_name(f"{target.name}.partial-{uuid.uuid4().hex[:8]}")

    def make() -> None:
        (folder / target.name).mkdir(parents=True)
        (folder / "notes").mkdir()

    return folder, problem_of(make)

"""Checkpoints in an object store, at any URL that fsspec knows: s3://, gs://, file:// …

A checkpoint is written to the run directory first, and copied from there by all ranks, each a share of the files,
COMPLETE last. What is whole there and newer than all in the run directory is fetched at a start, again by all ranks.
What a kill cuts short goes on with the files, and the beginnings of files, that have come over.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.checkpoint.complete import COMPLETE, in_order, parse_complete, read_complete
from trainer.checkpoint.find import find_whole
from trainer.checkpoint.folders import folder_of, step_of
from trainer.checkpoint.retention import kept_steps
from trainer.checkpoint.transfer import fetch_file, remote_size, upload_file
from trainer.errors import BanyanError, ConfigError, InputError, StorageError
from trainer.machine.durable import problem_of, sync
from trainer.machine.json_file import MOST_BYTES
from trainer.ranks.mesh import Mesh

UPLOADING = "UPLOADING"  # COMPLETE's content before it is complete: whose files are there
MEND = "look at the address, the credentials and the network"


class ObjectStore:
    """The folder of a run's checkpoints at a URL."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._opened: tuple[Any, str] | None = None

    def _open(self) -> tuple[Any, str]:
        """The file system, and the path in it. ConfigError without the package that it needs."""
        if self._opened is None:
            import fsspec

            options = {"auto_mkdir": True} if self.url.startswith(("file:", "local:")) else {}
            try:
                self._opened = fsspec.core.url_to_fs(self.url, use_listings_cache=False, **options)
            except (ImportError, ValueError) as error:
                raise ConfigError(
                    f'checkpoint.dir={self.url}: {error}; for s3:// install "banyan-train[s3]".'
                ) from error
        return self._opened

    def steps(self) -> list[int]:
        """Steps whose COMPLETE is there, in ascending order."""
        return self._steps_with(COMPLETE)

    def _steps_with(self, name: str) -> list[int]:
        files, root = self._open()
        steps = [step_of(path.split("/")[-2]) for path in files.glob(f"{root}/step-*/{name}")]
        return sorted(step for step in steps if step is not None)

    # -------------------------------------------------------------------------------------------------------- there

    def begin_upload(self, folder: Path) -> None:
        """Before any share of a whole checkpoint is copied: removes what isn't its own. Rank 0 calls it."""
        files, root = self._open()
        read_complete(folder)  # refuses names that lead out of the folder
        target, content = f"{root}/{folder.name}", (folder / COMPLETE).read_bytes()
        if self._holds(f"{target}/{COMPLETE}", content) or self._holds(f"{target}/{UPLOADING}", content):
            return
        self._remove(target)  # of the same step, from an attempt that a kill cut short
        files.pipe_file(f"{target}/{UPLOADING}", content)

    def upload_share(self, folder: Path, rank: int, ranks: int) -> None:
        """Copies this rank's share of the files of a whole checkpoint, but for those that are there."""
        files, root = self._open()
        named = read_complete(folder)
        for name in names_of_share(in_order(named), rank, ranks):
            upload_file(files, folder / name, f"{root}/{folder.name}/{name}", named[name])

    def end_upload(self, folder: Path) -> None:
        """Once all shares are there: COMPLETE makes them a checkpoint. Rank 0 calls it."""
        files, root = self._open()
        files.put_file(str(folder / COMPLETE), f"{root}/{folder.name}/{COMPLETE}")
        if files.exists(f"{root}/{folder.name}/{UPLOADING}"):
            files.rm_file(f"{root}/{folder.name}/{UPLOADING}")

    def _holds(self, path: str, content: bytes) -> bool:
        files, _ = self._open()
        return remote_size(files, path) == len(content) and files.cat_file(path) == content

    def upload_if_missing(self, folder: Path, mesh: Mesh) -> None:
        """Copies a whole checkpoint unless it is there. StorageError if that can't be. Every rank calls it."""
        newest = mesh.main_finds(lambda: max(self._steps_at_start(), default=0))
        if newest >= (step_of(folder.name) or 0):
            return
        problem = mesh.from_main(problem_of(lambda: self.begin_upload(folder)) if mesh.is_main else None)
        if problem is None:
            problem = mesh.first(problem_of(lambda: self.upload_share(folder, mesh.rank, mesh.world_size)))
        if problem is None:
            problem = mesh.from_main(problem_of(lambda: self.end_upload(folder)) if mesh.is_main else None)
        if problem:
            raise StorageError(f"{folder}: not copied to checkpoint.dir={self.url} ({problem}); {MEND}.")

    def retain(self, *, keep: int, keep_every: int, best: int | None) -> None:
        """Removes what retention doesn't keep, and what never became whole before the newest that did."""
        _, root = self._open()
        whole = self.steps()
        gone = set(whole) - kept_steps(whole, keep=keep, keep_every=keep_every, best=best)
        gone |= {step for step in self._steps_with(UPLOADING) if step not in whole and step < max(whole, default=0)}
        for step in gone:
            self._remove(f"{root}/{folder_of(Path(), step).name}")

    def _remove(self, target: str) -> None:
        files, _ = self._open()
        if files.exists(f"{target}/{COMPLETE}"):
            files.rm_file(f"{target}/{COMPLETE}")
        if files.exists(target):
            files.rm(target, recursive=True)

    # --------------------------------------------------------------------------------------------------------- here

    def fetch_newest(self, run_dir: Path, mesh: Mesh, check: Callable[[Path], None]) -> list[str]:
        """Fetches the newest whole checkpoint if the run directory has none as new; lines that say what happened.

        It enters the run directory once `check` has looked at it; ConfigError if that refuses it: the store is another
        run's, and this one's checkpoints would come among its own. InputError if there are some and none is whole,
        here or there. Every rank calls it.
        """
        own, _ = find_whole(run_dir, mesh)
        newest = (step_of(own.name) or 0) if own else -1
        lines: list[str] = []
        for step in reversed(mesh.main_finds(self._steps_at_start)):
            if step <= newest:
                break
            folder = folder_of(run_dir, step)
            problem = self._fetch(folder, mesh, check)
            if problem is None:
                return [*lines, f"fetched {self.url}/{folder.name}"]
            lines.append(f"{self.url}/{folder.name}: not whole ({problem})")
        if lines and newest < 0:
            raise InputError(
                f"{'; '.join(lines)}. No checkpoint of the run is whole, and beginning anew would throw it away: "
                "restore one, or give another checkpoint.dir."
            )
        return lines

    def _steps_at_start(self) -> list[int]:
        """`steps`, once it is seen that the store can be written. ConfigError if it can't."""
        files, root = self._open()
        probe = f"{root}/probe-{uuid.uuid4().hex[:8]}"

        def write() -> None:
            files.pipe_file(probe, b"Banyan looks whether it may write here.")
            files.rm_file(probe)

        problem = problem_of(write)
        if problem:
            raise ConfigError(f"checkpoint.dir={self.url}: can't be written ({problem}); {MEND}.")
        return self.steps()

    def _fetch(self, folder: Path, mesh: Mesh, check: Callable[[Path], None]) -> str | None:
        """Makes `folder` from what is in the store; in a line why that isn't whole, or None.

        What comes over stays after a kill, for the next start, and is removed if it isn't whole or refused.
        """
        attempt = folder.parent / f"{folder.name}.partial-fetched" / folder.name  # by its name, `check` knows the step
        ended = False
        try:
            problem = mesh.from_main(problem_of(lambda: self._begin_fetch(attempt)) if mesh.is_main else None)
            if problem is None:
                problem = mesh.first(problem_of(lambda: self._fetch_share(attempt, mesh.rank, mesh.world_size)))
            if problem is None:
                mesh.main_finds(lambda: self._accept(attempt, check))
                problem = mesh.from_main(problem_of(lambda: _move(attempt, folder)) if mesh.is_main else None)
            ended = True
        except BanyanError:
            ended = True
            raise
        finally:
            if mesh.is_main and ended:
                shutil.rmtree(attempt.parent, ignore_errors=True)
        return problem

    def _begin_fetch(self, attempt: Path) -> None:
        """Puts COMPLETE into the folder `attempt`, which keeps what was fetched before if it was for the same one.

        COMPLETE says what is fetched, and how much: no name in it leads out of the folder, no file may be larger, and
        all of them must have room.
        """
        files, root = self._open()
        source = f"{root}/{attempt.name}/{COMPLETE}"
        size = remote_size(files, source)
        if size is None or size > MOST_BYTES:
            raise OSError(f"{COMPLETE} is no file of at most {MOST_BYTES:,} bytes there")
        content = files.cat_file(source, start=0, end=size)
        named = parse_complete(content, attempt)
        if attempt.is_symlink() or not _is_same(attempt / COMPLETE, content):
            shutil.rmtree(attempt.parent, ignore_errors=True)
        attempt.mkdir(parents=True, exist_ok=True)
        (attempt / COMPLETE).write_bytes(content)
        here = sum(path.stat().st_size for path in attempt.iterdir() if path.name in named and path.is_file())
        needed, free = sum(file.bytes for file in named.values()) - here, shutil.disk_usage(attempt).free
        if needed > free:
            raise OSError(f"it needs {needed:,} bytes more, and the disk of {attempt.parents[2]} has {free:,} free")

    def _fetch_share(self, attempt: Path, rank: int, ranks: int) -> None:
        """Fetches this rank's share of the files that COMPLETE names; an error if one isn't whole."""
        files, root = self._open()
        named = read_complete(attempt)
        for name in names_of_share(in_order(named), rank, ranks):
            fetch_file(files, f"{root}/{attempt.name}/{name}", attempt / name, named[name])

    def _accept(self, attempt: Path, check: Callable[[Path], None]) -> None:
        sync(attempt)
        try:
            check(attempt)
        except BanyanError as error:
            raise ConfigError(
                f"checkpoint.dir={self.url}: {attempt.name} there isn't this run's, or doesn't fit it: "
                f"{str(error).replace(str(attempt), attempt.name)}"
            ) from error


def names_of_share(names: list[str], rank: int, ranks: int) -> list[str]:
    """What `rank` copies of files: of fewer than ranks, one each for ranks that are far apart."""
    count = len(names)
    if count < ranks:
        return [name for number, name in enumerate(names) if number * ranks // count == rank]
    return names[rank::ranks]


def _is_same(path: Path, content: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content


def _move(attempt: Path, folder: Path) -> None:
    """Gives a whole checkpoint its place."""
    shutil.rmtree(folder, ignore_errors=True)  # not whole, or it would be as new
    attempt.rename(folder)
    sync(folder.parent)

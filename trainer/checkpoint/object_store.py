"""Checkpoints in an object store, at any URL that fsspec knows: s3://, gs://, file:// …

A checkpoint is written to the run directory first, and copied from there, COMPLETE last. What is whole there and newer
than all in the run directory is fetched at a start, and every hash checked.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.checkpoint.folders import folder_of, list_steps, step_of
from trainer.checkpoint.reader import COMPLETE, find_problem, kept_steps, read_complete
from trainer.errors import BanyanError, ConfigError, InputError, StorageError
from trainer.machine.durable import problem_of, sync
from trainer.machine.json_file import MOST_BYTES

MEND = "look at the address, the credentials and the network"


class ObjectStore:
    """The folder of a run's checkpoints at a URL. Rank 0 alone talks to it."""

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
        files, root = self._open()
        steps = [step_of(path.split("/")[-2]) for path in files.glob(f"{root}/step-*/{COMPLETE}")]
        return sorted(step for step in steps if step is not None)

    def upload(self, folder: Path) -> None:
        """Copies a whole checkpoint; it counts once its COMPLETE, the last file, is there."""
        files, root = self._open()
        target = f"{root}/{folder.name}"
        self._remove(target)  # of the same step, from an attempt that a kill cut short
        for name, expected in read_complete(folder).items():
            files.put_file(str(folder / name), f"{target}/{name}")
            size = files.size(f"{target}/{name}")
            if size != expected.bytes:
                raise OSError(f"{name} has {size:,} bytes of {expected.bytes:,} there")
        files.put_file(str(folder / COMPLETE), f"{target}/{COMPLETE}")

    def upload_if_missing(self, folder: Path) -> None:
        """Copies a whole checkpoint unless it is there. StorageError if that can't be."""
        if max(self._steps_at_start(), default=0) < (step_of(folder.name) or 0):
            problem = problem_of(lambda: self.upload(folder))
            if problem:
                raise StorageError(f"{folder}: not copied to checkpoint.dir={self.url} ({problem}); {MEND}.")

    def retain(self, *, keep: int, keep_every: int, best: int | None) -> None:
        """Removes what retention doesn't keep."""
        _, root = self._open()
        whole = self.steps()
        for step in set(whole) - kept_steps(whole, keep=keep, keep_every=keep_every, best=best):
            self._remove(f"{root}/{folder_of(Path(), step).name}")

    def _remove(self, target: str) -> None:
        files, _ = self._open()
        if files.exists(f"{target}/{COMPLETE}"):
            files.rm_file(f"{target}/{COMPLETE}")
        if files.exists(target):
            files.rm(target, recursive=True)

    def fetch_newest(self, run_dir: Path, check: Callable[[Path], None]) -> list[str]:
        """Fetches the newest whole checkpoint if the run directory has none as new; lines that say what happened.

        It enters the run directory once `check` has looked at it; ConfigError if that refuses it: the store is another
        run's, and this one's checkpoints would come among its own. InputError if there are some and none is whole,
        here or there.
        """
        local = reversed(list_steps(run_dir))
        newest = next((step for step in local if find_problem(folder_of(run_dir, step)) is None), -1)
        lines: list[str] = []
        for step in reversed(self._steps_at_start()):
            if step <= newest:
                break
            folder = folder_of(run_dir, step)
            problem = self._fetch(folder, check)
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

    def _fetch(self, folder: Path, check: Callable[[Path], None]) -> str | None:
        """Makes `folder` from what is in the store; in a line why that isn't whole, or None."""
        attempts = folder.parent / f"{folder.name}.partial-{uuid.uuid4().hex[:8]}"
        attempt = attempts / folder.name  # by its name, `check` knows the step
        try:
            if problem := problem_of(lambda: self._download(attempt)):
                return problem
            try:
                check(attempt)
            except BanyanError as error:
                raise ConfigError(
                    f"checkpoint.dir={self.url}: {folder.name} there isn't this run's, or doesn't fit it: "
                    f"{str(error).replace(str(attempt), folder.name)}"
                ) from error
            return problem_of(lambda: _move(attempt, folder))
        finally:
            shutil.rmtree(attempts, ignore_errors=True)

    def _download(self, attempt: Path) -> None:
        """Copies the checkpoint of this name into the folder `attempt`; an error if it isn't whole.

        COMPLETE says what is fetched, and how much: no name in it leads out of the folder, no file may be larger, and
        all of them must have room.
        """
        files, root = self._open()
        source = f"{root}/{attempt.name}"
        attempt.mkdir(parents=True)
        _require_file(files.info(f"{source}/{COMPLETE}"), COMPLETE, most=MOST_BYTES)
        files.get_file(f"{source}/{COMPLETE}", str(attempt / COMPLETE))
        named = read_complete(attempt)
        needed, free = sum(expected.bytes for expected in named.values()), shutil.disk_usage(attempt).free
        if needed > free:
            raise OSError(f"it has {needed:,} bytes, and the disk of {attempt.parents[2]} {free:,} free")
        for name, expected in named.items():
            _require_file(files.info(f"{source}/{name}"), name, least=expected.bytes, most=expected.bytes)
            files.get_file(f"{source}/{name}", str(attempt / name))
            sync(attempt / name)
        problem = find_problem(attempt)
        if problem:
            raise OSError(problem)
        sync(attempt)


def _require_file(info: dict[str, Any], name: str, *, most: int, least: int = 0) -> None:
    """Refuses what isn't a file of the right size before it is fetched."""
    if info["type"] != "file" or not least <= (info["size"] or 0) <= most:
        raise OSError(f"{name} is no file of {most:,} bytes there")


def _move(attempt: Path, folder: Path) -> None:
    """Gives a whole checkpoint its place."""
    shutil.rmtree(folder, ignore_errors=True)  # not whole, or it would be as new
    attempt.rename(folder)
    sync(folder.parent)

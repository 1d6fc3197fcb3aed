"""Checkpoints in an object store, at any URL that fsspec knows: s3://, gs://, file:// …

A checkpoint is written to the run directory first, and copied from there, COMPLETE last. What is whole there and newer
than all in the run directory is fetched at a start, and every hash checked.
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

from trainer.durable import problem_of, sync
from trainer.engine.checkpoint import find_problem, kept_steps, read_complete
from trainer.engine.steps import NAME, folder_of, list_steps
from trainer.errors import ConfigError, StorageError

MEND = "look at the address, the credentials and the network"


class Store:
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
        names = [NAME.fullmatch(path.split("/")[-2]) for path in files.glob(f"{root}/step-*/COMPLETE")]
        return sorted(int(match.group(1)) for match in names if match)

    def upload(self, folder: Path) -> None:
        """Copies a whole checkpoint; it counts once its COMPLETE, the last file, is there."""
        files, root = self._open()
        target = f"{root}/{folder.name}"
        self._remove(target)  # of the same step, from an attempt that a kill cut short
        for name, expected in read_complete(folder).items():
            files.put_file(str(folder / name), f"{target}/{name}")
            size = files.size(f"{target}/{name}")
            if size != expected["bytes"]:
                raise OSError(f"{name} has {size:,} bytes of {expected['bytes']:,} there")
        files.put_file(str(folder / "COMPLETE"), f"{target}/COMPLETE")

    def upload_if_missing(self, folder: Path) -> None:
        """Copies a whole checkpoint unless it is there. StorageError if that can't be."""
        if folder_of(Path(), max(self._steps_at_start(), default=0)).name < folder.name:
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
        if files.exists(f"{target}/COMPLETE"):
            files.rm_file(f"{target}/COMPLETE")
        if files.exists(target):
            files.rm(target, recursive=True)

    def fetch_newest(self, run_dir: Path) -> list[str]:
        """Fetches the newest whole checkpoint if the run directory has none as new; lines that say what happened."""
        local = reversed(list_steps(run_dir))
        newest = next((step for step in local if find_problem(folder_of(run_dir, step)) is None), -1)
        lines: list[str] = []
        for step in reversed(self._steps_at_start()):
            if step <= newest:
                break
            problem = problem_of(lambda step=step: self._fetch(folder_of(run_dir, step)))  # type: ignore[misc]
            name = folder_of(run_dir, step).name
            if problem is None:
                return [*lines, f"fetched {self.url}/{name}"]
            lines.append(f"{self.url}/{name}: not whole ({problem})")
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

    def _fetch(self, folder: Path) -> None:
        """Makes `folder` from what is in the store; OSError if that isn't whole."""
        files, root = self._open()
        source = f"{root}/{folder.name}"
        attempt = folder.with_name(f"{folder.name}.partial-{uuid.uuid4().hex[:8]}")
        attempt.mkdir(parents=True)
        try:
            files.get_file(f"{source}/COMPLETE", str(attempt / "COMPLETE"))
            for name in read_complete(attempt):
                files.get_file(f"{source}/{name}", str(attempt / name))
                sync(attempt / name)
            problem = find_problem(attempt)
            if problem:
                raise OSError(problem)
            sync(attempt)
            shutil.rmtree(folder, ignore_errors=True)  # not whole, or it would be as new
            attempt.rename(folder)
            sync(folder.parent)
        finally:
            shutil.rmtree(attempt, ignore_errors=True)

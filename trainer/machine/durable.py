"""Durable files: a file appears under its name only when it is whole and on disk."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from trainer.errors import InputError, StorageError
from trainer.machine.environment import as_stored
from trainer.machine.sealing.plaintext import sealing

REFUSALS = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "your disk quota is used up: free some space",
    errno.EROFS: "the disk is read-only: choose another folder",
    errno.EACCES: "writing isn't permitted: choose another folder",
    errno.EPERM: "writing isn't permitted: choose another folder",
    errno.EIO: "the disk failed: check it",
    errno.EFBIG: "the file is larger than the disk allows: check ulimit -f",
    errno.EISDIR: "a folder is in its place: remove that",
    errno.ENOTDIR: "a file is where its folder should be: remove that",
    errno.EEXIST: "a file is where its folder should be: remove that",
    errno.ENAMETOOLONG: "the name is longer than the disk allows: choose a shorter one",
}

LONGEST_NAME = 150  # bytes of a temporary name before host, process and ending


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns what the disk refuses into one line (StorageError) that names `path`."""
    try:
        yield
    except OSError as error:
        mend = REFUSALS.get(error.errno or 0)
        if mend is None:
            raise
        raise StorageError(f"{path}: {mend}, then run the same command again; it continues.") from error


def problem_of(work: Callable[[], Any]) -> str | None:
    """Runs `work`; what went wrong in a line, or None. For writers whose failure doesn't end the run."""
    try:
        work()
    except Exception as error:  # libraries wrap OSError in exceptions of their own
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return None


@contextmanager
def replacing(path: Path, *, scratch: Path | None = None, sync_folder: bool = True) -> Iterator[BinaryIO]:
    """A file to write, which becomes `path` at the end: written beside it (or in `scratch`), fsync, rename, fsync.

    The temporary name holds host and process number: a worker that outlives its killed parent, or a node that was
    taken for lost, can't write into the file of another. `scratch` must be on the same file system. Without
    `sync_folder` the name may be lost with the power; what it names is whole. Where files of the folder are encrypted
    (machine/sealing), so is this one.
    """
    temporary = (scratch or path.parent) / f"{_short(path)}.{platform.node()[:64]}-{os.getpid()}.tmp"
    with storage_errors(path):
        try:
            temporary.unlink(missing_ok=True)
            with open(temporary, "xb") as stored:  # never through a link that lies there
                with sealing(stored, path) as file:
                    yield file
                stored.flush()
                os.fsync(stored.fileno())
            os.replace(temporary, path)
            if sync_folder:
                sync(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def require_plain_file(path: Path) -> None:
    """Refuses to append to a link, which in a folder of others may lead anywhere, to a folder or to a pipe."""
    with storage_errors(path):
        kind = stat.S_IFMT(path.lstat().st_mode) if os.path.lexists(path) else stat.S_IFREG
    if kind in (stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFSOCK):
        raise InputError(f"{path}: it is a link, a folder or a pipe; remove it, or put the file itself there.")


def _short(path: Path) -> str:
    """A name for `path` that leaves room for an ending: file systems take 255 bytes."""
    name = f"{path.parent.name}-{path.name}"
    if len(os.fsencode(name)) <= LONGEST_NAME:
        return name
    return hashlib.sha256(os.fsencode(name)).hexdigest()


def sync(path: Path) -> None:
    """Makes a file, or the names in a folder, durable (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Creates `folder` and its parents where they are missing."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def write_bytes(path: Path, content: bytes, *, scratch: Path | None = None, sync_folder: bool = True) -> None:
    """Writes a small file durably."""
    with replacing(path, scratch=scratch, sync_folder=sync_folder) as file:
        file.write(content)


def write_together(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Writes small files of one folder durably, each atomically, and syncs the folder once."""
    for name, content in contents.items():
        write_bytes(folder / name, content, sync_folder=False)
    with storage_errors(folder):
        sync(folder)


def write_text(path: Path, text: str) -> None:
    """Writes a small text file durably."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any, *, scratch: Path | None = None, sync_folder: bool = True) -> None:
    """Writes `content` as indented JSON, durably; what came from the environment as it was written."""
    write_bytes(path, json_bytes(content), scratch=scratch, sync_folder=sync_folder)


def json_bytes(content: Any) -> bytes:
    """What write_json writes."""
    text = json.dumps(as_stored(content), indent=1, ensure_ascii=False) + "\n"
    # Bytes of a command line that aren't UTF-8 are surrogates, which JSON, too, writes as \udcXX.
    return text.encode(errors="backslashreplace")

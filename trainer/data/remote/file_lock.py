"""Locks that are files: the kernel lets go of them when their holder dies, however it does."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def try_lock(path: Path) -> int | None:
    """The descriptor of a lock file that is this process's now, till it is closed; None if it is another's."""
    while True:
        descriptor = os.open(path, _FLAGS, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        if is_at(descriptor, path):
            return descriptor
        os.close(descriptor)  # it was removed meanwhile: lock the new one


def open_alone(path: Path, mode: int = 0o600) -> int:
    """Opens a file to be written, which is made if it isn't there, once no other process has it so.

    The descriptor locks it till it is closed: what was removed between its opening and its lock is opened anew.
    """
    while True:
        descriptor = os.open(path, _FLAGS, mode)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if is_at(descriptor, path):
            return descriptor
        os.close(descriptor)


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Waits for a lock file, which is never removed, and holds it."""
    descriptor = os.open(path, _FLAGS, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is what the path leads to now."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False

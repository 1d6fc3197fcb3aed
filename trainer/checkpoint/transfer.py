"""One file of a checkpoint on its way to an object store, or from there: looked at, hashed, and gone on with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import xxhash

from trainer.checkpoint.complete import StoredFile, hash_range

CHUNK = 64 * 2**20  # bytes that are fetched at once


def remote_size(files: Any, path: str) -> int | None:
    """Bytes of what is at `path` of a file system of fsspec's; None if there is no file."""
    try:
        info = files.info(path)
    except FileNotFoundError:
        return None
    return int(info["size"] or 0) if info["type"] == "file" else None


def upload_file(files: Any, source: Path, target: str, expected: StoredFile) -> None:
    """Copies a file unless one of its size is there. OSError if it isn't what COMPLETE says, before or after."""
    if remote_size(files, target) == expected.bytes:
        return
    start = 0
    for part in expected.hashed:
        if hash_range(source, start, part.bytes) != part.xxh3_128:
            raise OSError(f"{source.name} doesn't match its hash")
        start += part.bytes
    files.put_file(str(source), target)
    size = remote_size(files, target)
    if size != expected.bytes:
        raise OSError(f"{source.name} has {size or 0:,} bytes of {expected.bytes:,} there")


def fetch_file(files: Any, source: str, target: Path, expected: StoredFile) -> None:
    """Fetches a file durably, from where a former attempt ended. OSError if it isn't what COMPLETE says.

    Its size is looked at before anything is fetched.
    """
    if remote_size(files, source) != expected.bytes:
        raise OSError(f"{target.name} is no file of {expected.bytes:,} bytes there")
    if target.is_symlink() or (target.exists() and target.stat().st_size > expected.bytes):
        target.unlink()
    resumed = target.exists()
    if not _fetch(files, source, target, expected) and not (resumed and _fetch_anew(files, source, target, expected)):
        raise OSError(f"{target.name} doesn't match its hash")


def _fetch_anew(files: Any, source: str, target: Path, expected: StoredFile) -> bool:
    target.unlink()
    return _fetch(files, source, target, expected)


def _fetch(files: Any, source: str, target: Path, expected: StoredFile) -> bool:
    """Goes on with the file at `target`; whether every part has its hash."""
    start = 0
    descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    with open(descriptor, "r+b") as file:
        here = os.fstat(descriptor).st_size
        for part in expected.hashed:
            digest, stop = xxhash.xxh3_128(), start + part.bytes
            while start < stop:
                end = min(stop, start + CHUNK)
                if start < here:
                    end = min(end, here)
                    content = file.read(end - start)
                else:
                    content = files.cat_file(source, start=start, end=end)
                    file.write(content)
                if len(content) != end - start:
                    raise OSError(f"{target.name} ends after {start + len(content):,} bytes")
                digest.update(content)
                start += len(content)
            if digest.hexdigest() != part.xxh3_128:
                return False
        file.flush()
        os.fsync(descriptor)
    return True

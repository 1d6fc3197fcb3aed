"""A file where it lies, at a URL or in a folder on a mount: small ones read whole, shards fetched and hashed."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable

from trainer.data.text.remote import BLOCK, RangeFile, Unreachable, is_remote, shown_url
from trainer.errors import InputError

PIECE = 2**20  # bytes that are written at once
_LASTING = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)


class BadFile(InputError):
    """A file that isn't what the manifest says."""


class _MountedFile(io.FileIO):
    """A file of a folder, likely on a mount. What fails is Unreachable."""

    def __init__(self, path: str) -> None:
        self.address = path
        try:
            super().__init__(path, "rb")
        except OSError as error:
            raise _unreachable(path, error) from error

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self.fileno()).st_size

    def readinto(self, buffer: object) -> int | None:
        try:
            return super().readinto(buffer)  # type: ignore[arg-type]
        except OSError as error:  # a server of files that went away
            raise _unreachable(self.address, error) from error


def _unreachable(path: str, error: OSError) -> Unreachable:
    refusal = Unreachable(f"{shown_url(path)}: can't be read ({error.strerror}).")
    refusal.lasting, refusal.missing = isinstance(error, _LASTING), isinstance(error, FileNotFoundError)
    return refusal


def _open_origin(address: str, most_bytes: int) -> RangeFile | _MountedFile:
    return RangeFile(address, most_bytes) if is_remote(address) else _MountedFile(address)


def read_small(address: str, most_bytes: int) -> bytes:
    """The whole file at `address`. Unreachable if it can't be read, BadFile if it is larger than it may be."""
    with _open_origin(address, most_bytes) as raw:
        if raw.size > most_bytes:
            raise BadFile(f"{shown_url(address)}: {raw.size:,} bytes, where {most_bytes:,} are the most.")
        size = raw.size
        return io.BufferedReader(raw, BLOCK).read(size)


def read_if_there(address: str, most_bytes: int) -> bytes | None:
    """As read_small; None if there is no such file."""
    try:
        return read_small(address, most_bytes)
    except Unreachable as error:
        if error.missing:
            return None
        raise


def fetch_hashed(
    address: str, file: io.FileIO, *, size: int, sha256: str, advance: Callable[[int], None] = lambda count: None
) -> None:
    """Fetches the file at `address` into `file`, durably, from where that ends: a former attempt's work isn't lost.

    `advance` is told of bytes that are in the file. Unreachable if it can't be read, BadFile if it isn't `size` bytes
    with that hash: `file` is empty then.
    """
    resumed = os.fstat(file.fileno()).st_size > 0
    for _ in range(1 + resumed):
        if fetch_all(address, file, size=size, advance=advance) == sha256:
            return
        file.truncate(0)
    raise BadFile(f"{shown_url(address)}: its content isn't what the manifest says (sha256 differs)")


def _write_all(file: io.FileIO, piece: bytes) -> None:
    view = memoryview(piece)
    while len(view):
        view = view[file.write(view) :]


def fetch_all(address: str, file: io.FileIO, *, size: int, advance: Callable[[int], None] = lambda count: None) -> str:
    """Fetches the file at `address` into `file`, durably, from where that ends; the sha256 of all of it.

    Unreachable if it can't be read, BadFile if it isn't `size` bytes: `file` is empty then.
    """
    if os.fstat(file.fileno()).st_size > size:
        file.truncate(0)
    digest, have = hashlib.sha256(), 0
    file.seek(0)
    while piece := file.read(PIECE):
        digest.update(piece)
        have += len(piece)
        advance(len(piece))
    with _open_origin(address, size) as raw:
        if raw.size != size:
            file.truncate(0)
            raise BadFile(f"{shown_url(address)}: {raw.size:,} bytes, {size:,} expected by the manifest")
        source = io.BufferedReader(raw, BLOCK)
        source.seek(have)
        while have < size:
            piece = source.read(min(BLOCK, size - have))
            if not piece:
                raise Unreachable(f"{shown_url(address)}: it ended after {have:,} bytes of {size:,}.")
            _write_all(file, piece)
            digest.update(piece)
            have += len(piece)
            advance(len(piece))
    os.fsync(file.fileno())
    return digest.hexdigest()

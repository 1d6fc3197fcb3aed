"""Tar archives, strictly: a bad header, a cut or garbage is an error that names the file, never an early end.

WebDataset and Python's own `tarfile` end quietly at a bad header in the middle; a training set would lose documents.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from trainer.errors import InputError

RECORD = 512  # bytes of a tar header, and what data is padded to
END = b"\0" * (2 * RECORD)
TAIL_PIECE = 2**20  # bytes of the archive's zero padding looked at together


@dataclass(frozen=True)
class Member:
    """A file inside a tar: its name, where its data begin, and how many bytes they are."""

    name: str
    offset: int
    bytes: int


def read_members(path: Path) -> Iterator[Member]:
    """The regular files in the tar at `path`, in order; InputError unless the archive is whole."""
    try:
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header; millions don't fit
                if info.isreg():
                    yield Member(info.name, info.offset_data, info.size)
            _check_end(path, file, archive.offset)
    except tarfile.TarError as error:
        raise InputError(
            f"{path}: not a whole tar archive ({error}): it is damaged or cut short; fetch or write it again."
        ) from error


def _check_end(path: Path, file: BinaryIO, offset: int) -> None:
    """Refuses an archive whose headers end at `offset` in anything but zeros (at least a record of them)."""
    file.seek(offset)
    padding = 0
    while piece := file.read(TAIL_PIECE):
        if piece.count(0) != len(piece):
            raise InputError(
                f"{path}: garbage instead of a tar header after byte {offset:,}: the archive is damaged; "
                "fetch or write it again."
            )
        padding += len(piece)
    if padding < RECORD:
        raise InputError(f"{path}: no end-of-archive mark: the archive is cut short; fetch or write it again.")


def header(name: str, size: int) -> bytes:
    """A tar header (512 bytes) without time or owner, so that equal content gives equal bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, 0, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


def padding(size: int) -> bytes:
    """The zeros that follow `size` bytes of data."""
    return b"\0" * (-size % RECORD)

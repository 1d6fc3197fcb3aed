"""Tar archives, strictly: a bad header, a cut or garbage is an error that names the file, never an early end.

WebDataset and Python's own `tarfile` end quietly at a bad header in the middle; a training set would lose documents.
What the names of members mean, too, is decided here, by WebDataset's rules.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from trainer.data.text.file_names import escape
from trainer.errors import InputError

RECORD = 512  # bytes of a tar header, and what data is padded to
END = b"\0" * (2 * RECORD)
TAIL_PIECE = 2**20  # bytes of the archive's zero padding looked at together
MOST_PADDING = 2**28  # bytes of it; GNU tar pads to 10,240
MOST_HEADER_BYTES = 2**15  # of one member: long names and the like; `tarfile` takes quadratic time for them
RESERVED_ENDINGS = ("__key__", "__url__")  # what WebDataset itself puts into a sample


@dataclass(frozen=True)
class Member:
    """A member of a tar that is no folder: its name, where its data begin, and how many bytes they are.

    A link (hard or symbolic) or device has no data.
    """

    name: str
    offset: int
    bytes: int
    link: bool = False


@dataclass
class Sample:
    """Consecutive files that share a key, by ending in lower case: WebDataset's unit."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------------------ naming


def key_and_ending(name: str) -> tuple[str, str] | None:
    """A member's name as WebDataset takes it apart: the ending is all after the file name's first dot.

    None for names that WebDataset passes over.
    """
    match = re.match(r"^((?:.*/|)[^.]+)[.]([^/]*)$", name)
    return (match.group(1), match.group(2).lower()) if match else None


def is_metadata(name: str) -> bool:
    """Whether WebDataset passes over a member for its name: `__NAME__`, at the top or as the topmost folder."""
    return bool(re.match(r"__[^/]*__($|/)", name)) or (
        "/" not in name and name.startswith("__") and name.endswith("__")
    )


def read_samples(path: Path | str, file: BinaryIO | None = None) -> Iterator[Sample | Member]:
    """The samples of the tar at `path`, and singly each member that belongs to none; every member once.

    With a `file`, that is read and `path` is its name. InputError where WebDataset refuses: two members of one name in
    a sample.
    """
    sample: Sample | None = None
    for member in read_members(path, file):
        parts = None if member.link or is_metadata(member.name) else key_and_ending(member.name)
        if parts is None:
            yield member
            continue
        key, ending = parts
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample
            sample = Sample(key)
        if ending in sample.members or ending in RESERVED_ENDINGS:
            raise InputError(
                f"{escape(path)}: the sample {escape(key)} has two members .{escape(ending)}, which WebDataset "
                "refuses: rename one, or write the archive again."
            )
        sample.members[ending] = member
    if sample is not None:
        yield sample


def texts_of(path: Path | str, sample: Sample, text_field: str) -> list[Member]:
    """The members of a sample that hold a text: the one with the ending `text_field`, or else `txt`.

    Where none has just that ending, those are meant whose last ending it is: files like `2301.00001.txt`, which
    WebDataset takes for one sample. InputError where both kinds are there and `text_field` doesn't choose.
    """
    wanted = text_field.lower()
    if wanted in sample.members:
        return [sample.members[wanted]]
    dotted = [ending for ending in sample.members if ending.endswith((f".{wanted}", ".txt"))]
    if "txt" not in sample.members:
        return [sample.members[ending] for ending in dotted]
    if dotted:
        raise InputError(
            f"{escape(path)}: {escape(sample.key)}.txt and {escape(sample.members[dotted[0]].name)} are one sample to "
            "WebDataset: set data.text_field=txt to read the first alone, or rename them for a document each."
        )
    return [sample.members["txt"]]


# ----------------------------------------------------------------------------------------------------------- reading


class _Headers:
    """The file as `tarfile` reads headers from it: no more than a member may have, whatever sizes they claim."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.left = MOST_HEADER_BYTES
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int) -> bytes:
        self.left -= size
        if size < 0 or self.left < 0:
            raise tarfile.ReadError(f"a header of more than {MOST_HEADER_BYTES:,} bytes")
        header = self._file.read(size)
        if re.search(rb"[0-9]{256}", header):  # which alone would take `tarfile` seconds
            raise tarfile.ReadError("a header with a number of more than 255 digits")
        return header


def read_members(path: Path | str, file: BinaryIO | None = None) -> Iterator[Member]:
    """The members of the tar at `path` but folders, in order; InputError unless the archive is whole.

    With a `file`, that is read and `path` is its name.
    """
    try:
        with open(path, "rb") if file is None else nullcontext(file) as file:
            size = file.seek(0, 2)
            file.seek(0)
            headers: Any = _Headers(file)
            with tarfile.open(fileobj=headers, mode="r:", encoding="utf-8") as archive:
                for info in archive:
                    archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header; millions don't fit
                    headers.left = MOST_HEADER_BYTES
                    _check_place(path, info, archive.offset, size)
                    if not info.isdir():
                        yield Member(info.name, info.offset_data, info.size if info.isreg() else 0, not info.isreg())
                _check_end(path, file, archive.offset)
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{escape(path)}: not a whole tar archive ({error}): it is damaged or cut short; fetch or write it again."
        ) from error


def _check_place(path: Path | str, info: tarfile.TarInfo, following: int, size: int) -> None:
    """Refuses a member that doesn't lie within the `size` bytes of the archive, just before the header `following`."""
    if info.issparse() or any(key.startswith("GNU.sparse.") for key in info.pax_headers):
        raise InputError(
            f"{escape(path)}: {escape(info.name)} is a sparse file, which can't be read: write the archive without "
            "--sparse."
        )
    end = info.offset_data + (info.size if info.isreg() else 0)
    if not info.offset < info.offset_data <= end <= following or (info.isreg() and following != end + -end % RECORD):
        raise tarfile.ReadError(f"{escape(info.name)} claims a size of {info.size:,} bytes")
    if end > size:
        raise tarfile.ReadError(f"{escape(info.name)} ends at byte {end:,} of {size:,}")


def _check_end(path: Path | str, file: BinaryIO, offset: int) -> None:
    """Refuses an archive whose headers end at `offset` in anything but zeros (at least a record of them)."""
    file.seek(offset)
    padding = 0
    while piece := file.read(TAIL_PIECE):
        if piece.count(0) != len(piece):
            raise InputError(
                f"{escape(path)}: garbage instead of a tar header after byte {offset:,}: the archive is damaged; "
                "fetch or write it again."
            )
        padding += len(piece)
        if padding > MOST_PADDING:
            raise InputError(
                f"{escape(path)}: more than {MOST_PADDING:,} bytes of zeros after byte {offset:,}, where the archive "
                "ends: it is damaged, or not all written yet; fetch or write it again."
            )
    if padding < RECORD:
        raise InputError(f"{escape(path)}: no end-of-archive mark: the archive is cut short; fetch or write it again.")


def header(name: str, size: int) -> bytes:
    """A tar header (512 bytes) without time or owner, so that equal content gives equal bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, 0, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


def padding(size: int) -> bytes:
    """The zeros that follow `size` bytes of data."""
    return b"\0" * (-size % RECORD)

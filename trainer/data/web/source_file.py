"""A tar where it lies, local or at a URL: any bytes of it, and whether it is still what was indexed."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trainer.data.text.file_names import escape
from trainer.data.text.remote import RangeFile, is_remote, shown_url, status_of
from trainer.data.tokens.manifest import Shard
from trainer.data.tokens.open_files import OpenFile
from trainer.errors import InputError

REQUESTS = 16  # at once, of one tar at a URL
GAP_BYTES = 2**16  # between documents that are asked for together
MOST_RANGE_BYTES = 2**23


class SourceFile(ABC):
    """Reads ranges of a tar."""

    @abstractmethod
    def read(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of each (offset, size)."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of what is open; the next read opens it again."""


def open_source(shard: Shard, folder: Path) -> SourceFile:
    """The tar of an indexed shard. InputError where it isn't there, or has changed since it was indexed."""
    assert shard.indexed is not None
    if is_remote(shard.indexed.address):
        return _RemoteFile(shard, folder)
    problem = find_changed(shard, folder)
    if problem:
        raise InputError(problem)
    return _LocalFile(Path(shard.indexed.address), shard.bytes, folder)


def find_changed(shard: Shard, folder: Path) -> str | None:
    """What is wrong with the tar of an indexed shard, as its folder or its server says: a line, or None."""
    problem = describe_change(shard)
    return None if problem is None else f"{problem}: {_again(folder)}"


def describe_change(shard: Shard) -> str | None:
    """The same without the mend. Unreachable if its server doesn't say."""
    assert shard.indexed is not None
    address = shard.indexed.address
    if is_remote(address):
        status = status_of(address)
        found: tuple[int | None, int] = status.bytes, status.version
    else:
        try:
            stat = os.stat(address)
        except OSError as error:
            return f"{escape(address)}: the tar can't be read ({error.strerror})"
        found = stat.st_size, stat.st_mtime_ns
    if found[0] not in (None, shard.bytes):
        return f"{shown_address(address)}: {found[0]:,} bytes, {shard.bytes:,} when it was indexed"
    if str(found[1]) != shard.indexed.state:
        what = "its server says so" if is_remote(address) else "its time differs"
        return f"{shown_address(address)}: it has changed since it was indexed ({what})"
    return None


def changed_document(address: str, record: int, what: str, folder: Path | str) -> InputError:
    """That a document isn't the one that was indexed."""
    return InputError(f"{shown_address(address)}: record {record:,} {what}: {_again(folder)}")


def shown_address(address: str) -> str:
    """A path or URL for people."""
    return shown_url(address) if is_remote(address) else escape(address)


def _again(folder: Path | str) -> str:
    return f'restore it, or run "banyan data index {folder}", which tells whether its documents are the same.'


class _LocalFile(SourceFile):
    """A mapped file."""

    def __init__(self, path: Path, size: int, folder: Path) -> None:
        self._file, self._size, self._folder = OpenFile(path), size, folder

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        content = self._file.content()
        if len(content) != self._size:
            raise InputError(f"{escape(self._file.path)}: it has changed since it was opened; {_again(self._folder)}")
        return [content[offset : offset + size].tobytes() for offset, size in ranges]

    def close(self) -> None:
        self._file.close()


class _RemoteFile(SourceFile):
    """A file at a URL: neighbouring documents by one request, several requests at once."""

    def __init__(self, shard: Shard, folder: Path) -> None:
        assert shard.indexed is not None
        problem = find_changed(shard, folder)
        if problem:
            raise InputError(problem)
        self._address = shard.indexed.address
        self._idle: list[RangeFile] = []

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        wanted = _joined(ranges)
        with ThreadPoolExecutor(min(REQUESTS, max(1, len(wanted)))) as requests:
            contents = list(requests.map(self._request, wanted))
        return [
            next(
                content[offset - start : offset - start + size]
                for (start, stop), content in zip(wanted, contents, strict=True)
                if start <= offset and offset + size <= stop
            )
            for offset, size in ranges
        ]

    def _request(self, wanted: tuple[int, int]) -> bytes:
        start, stop = wanted
        file = self._idle.pop() if self._idle else RangeFile(self._address)
        file.seek(start)
        content = bytearray()
        while len(content) < stop - start and (piece := file.read(stop - start - len(content))):
            content += piece
        if len(content) != stop - start:
            raise InputError(
                f"{shown_address(self._address)}: cut short since it was indexed; fetch or write it again."
            )
        self._idle.append(file)
        return bytes(content)

    def close(self) -> None:
        self._idle.clear()


def _joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges (offset, size) as stretches [start, stop), neighbours together."""
    found: list[tuple[int, int]] = []
    for offset, size in sorted(set(ranges)):
        start, stop = found[-1] if found else (0, -GAP_BYTES - 1)
        if offset <= stop + GAP_BYTES and max(stop, offset + size) - start <= MOST_RANGE_BYTES:
            found[-1] = start, max(stop, offset + size)
        else:
            found.append((offset, offset + size))
    return found

"""Large files in parts: byte ranges of JSON lines, each read by itself. A line belongs to the range it begins in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from trainer.data.text.documents import Rejected, _read_jsonl, read_documents
from trainer.data.text.file_names import escape
from trainer.data.text.formats import SNIFFED, is_code, is_json_lines
from trainer.data.text.packed import _MAGIC, PIECE
from trainer.data.text.sources import Source
from trainer.errors import InputError


@dataclass(frozen=True)
class SourceRange:
    """A source, or those lines of it that begin in the bytes [start, stop): `stop` is None for the last ones."""

    number: int  # of the source
    source: Source
    start: int = 0
    stop: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its source."""
        return self.start == 0 and self.stop is None

    @property
    def bytes(self) -> int:
        """Its share of the source file."""
        return (self.source.bytes if self.stop is None else self.stop) - self.start


def source_ranges(number: int, source: Source, wanted_bytes: int, text_field: str) -> list[SourceRange]:
    """A source, or ranges of about `wanted_bytes` where it is larger and can be read from any line."""
    count = source.bytes // wanted_bytes
    if count < 2 or not _has_lines(source, text_field):
        return [SourceRange(number, source)]
    edges = [source.bytes * edge // count for edge in range(count)]
    return [SourceRange(number, source, *edge) for edge in zip(edges, [*edges[1:], None], strict=True)]


def _has_lines(source: Source, text_field: str) -> bool:
    """Whether it is JSON lines that aren't packed, whatever its name says."""
    if source.packing or source.kind == "tar":
        return False
    try:
        with open(source.path, "rb") as file:
            head = file.read(SNIFFED)
    except OSError:
        return False  # whoever reads it will say so
    if head.startswith(tuple(_MAGIC)):
        return False
    field = text_field if is_code(source.path.name) else None
    return source.kind == "jsonl" or is_json_lines(head, whole=False, text_field=field)


class RangeReader:
    """Iterates over a range's records as read_documents does; in a range they are numbered from its own first line.

    `records` is how many numbers a range takes, its lines, once it is read; `unused` counts a tar's members beside the
    text. A range isn't refused for holding no text: the others may.
    """

    def __init__(self, span: SourceRange, text_field: str, most_bytes: int, unused: Counter[str]) -> None:
        self.records = 0
        self._range = span
        self._settings = text_field, most_bytes
        self._unused = unused

    def __iter__(self) -> Iterator[tuple[int, bytes | Rejected]]:
        source = self._range.source
        if self._range.is_whole:
            yield from read_documents(source, *self._settings, self._unused)
            return
        lenient = replace(source, strict=False, kind="text")
        try:
            with open(source.path, "rb") as file:
                yield from _read_jsonl(lenient, self._content(file), *self._settings)
        except OSError as error:
            raise InputError(f"{escape(source.path)}: can't be read ({error.strerror or error}).") from error

    def _content(self, file: BinaryIO) -> Iterator[bytes]:
        """The bytes of the lines that begin in the range."""
        start, stop = self._range.start, self._range.stop
        begin = _line_start(file, start, stop)
        if stop is not None and begin >= stop:
            return
        left = None if stop is None else _line_start(file, stop, None) - begin
        file.seek(begin)
        while content := file.read(PIECE if left is None else min(PIECE, left)):
            left = None if left is None else left - len(content)
            self.records += content.count(b"\n")
            yield content


def _line_start(file: BinaryIO, offset: int, limit: int | None) -> int:
    """The first byte from `offset` on that a line begins with, or the file's end, or some byte after `limit`."""
    if offset == 0:
        return 0
    place = offset - 1
    file.seek(place)
    while content := file.read(PIECE):
        found = content.find(b"\n")
        if found >= 0:
            return place + found + 1
        place += len(content)
        if limit is not None and place >= limit:
            break
    return place

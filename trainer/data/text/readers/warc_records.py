"""Records of a WARC file, strictly: what is damaged or cut short is told, and reading goes on at the next record.

The libraries for WARC end quietly at a cut, and with an error at garbage: a crawl would lose documents.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from trainer.data.text.packed import PIECE

VERSION = b"WARC/1."
MOST_HEADER = 2**16  # bytes of a record's header
GZIP = b"\x1f\x8b\x08"
FIRST_LINE = 16  # bytes, at least, that the first line of one takes
KEPT = 2**24  # bytes of an unpacked record that are held so that reading can go back to where it began
PACKED_PIECE = 2**13  # bytes given to a decompressor at once: most members are smaller
_FIRST_LINE = re.compile(rb"WARC/1\.[0-9]\r?\n")
_BLANK = re.compile(rb"[\r\n]*")


@dataclass(frozen=True)
class WarcRecord:
    """A record: its header's fields by lower-case name, and its content, None where that is larger than asked for.

    `place` is the byte of the file from which it can be read; None where that isn't a record's beginning.
    """

    fields: dict[str, str]
    content: bytes | None
    bytes: int
    place: int | None


@dataclass(frozen=True)
class Damage:
    """A place of the file that holds no whole record, in words."""

    problem: str


class _Damaged(Exception):
    """Bytes that are no whole record, from the byte `begin` of their stream on."""

    def __init__(self, problem: str, begin: int) -> None:
        super().__init__(problem)
        self.begin = begin


def records_in_file(
    file: BinaryIO, most_bytes: int, start: int = 0, stop: int | None = None
) -> Iterator[WarcRecord | Damage]:
    """The records that begin in [start, stop) of a file, which is plain or gzip, best with a member to a record."""
    packed, window = _is_gzip(file), _Window(file)
    following: int | None = start
    while following is not None and (stop is None or following < stop):
        place = following
        member = _Member(window, place) if packed else None
        stream = _Stream(member.pieces() if member else _pieces(file, place))
        try:
            for record in _records_in(stream, most_bytes, place, None if packed else stop, packed=packed):
                yield Damage(f"{record.problem} (after byte {place:,})") if isinstance(record, Damage) else record
            following = None if member is None else member.end()
        except _Damaged as damage:
            yield Damage(f"{damage} (after byte {place + damage.begin:,})")
            following = _next_version(file, place + damage.begin + 1)
        except zlib.error as error:
            yield Damage(f"the gzip member at byte {place:,} is damaged ({error})")
            following = _next_member(file, place + 1)


def records_in_stream(pieces: Iterator[bytes], most_bytes: int) -> Iterator[WarcRecord | Damage]:
    """The records of what was unpacked in another way."""
    return _records_in(_Stream(pieces), most_bytes, 0, None, packed=True)


def _records_in(
    stream: _Stream, most_bytes: int, base: int, stop: int | None, *, packed: bool
) -> Iterator[WarcRecord | Damage]:
    """The records of a stream. In what was unpacked, reading goes on behind damage; else that is _Damaged."""
    first = True
    stream.skip_blank()
    while not stream.at_end():
        begin = stream.taken
        if stop is not None and base + begin >= stop:
            return
        stream.keep(KEPT if packed else 0)
        try:
            fields, content, length = _record(stream, most_bytes)
        except _Damaged as damage:
            if not packed:
                raise
            yield Damage(str(damage))
            first = False
            stream.back_to_next_version()
            continue
        stream.skip_blank()
        stream.at_end()  # which checks what a member ends with: the record is whole only then
        place = base + begin if not packed else base if first else None
        first = False
        yield WarcRecord(fields, content, length, place)


def _record(stream: _Stream, most_bytes: int) -> tuple[dict[str, str], bytes | None, int]:
    """The next record's fields, its content, and how long that is."""
    begin = stream.taken
    fields = _header(stream, begin)
    length = int(fields["content-length"])
    content = stream.take(length) if length <= most_bytes else None
    read = stream.skip(length) if content is None else len(content)
    if read < length:
        raise _Damaged(f"a record is cut short: {read:,} bytes of {length:,}", begin)
    if stream.line(2) not in (b"\r\n", b"\n", b""):
        raise _Damaged("a record doesn't end where its Content-Length says", begin)
    return fields, content, length


def _header(stream: _Stream, begin: int) -> dict[str, str]:
    """The fields of a record's header, which has a Content-Length."""
    if not stream.line(64).startswith(VERSION):
        raise _Damaged("garbage instead of a record", begin)
    fields: dict[str, str] = {}
    left = MOST_HEADER
    while (line := stream.line(left)).strip():
        left -= len(line)
        name, _, value = line.decode("utf-8", "replace").partition(":")
        fields.setdefault(name.strip().lower(), value.strip())
    length = fields.get("content-length", "")
    if not line or left <= 0 or not (length.isascii() and length.isdigit() and len(length) < 19):
        raise _Damaged("a record's header is broken", begin)
    return fields


# ------------------------------------------------------------------------------------------------------------- bytes


class _Stream:
    """Bytes that come in pieces, taken from front to back; `taken` counts them. Some are kept, to go back to."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.taken = 0
        self._kept: list[bytes] = []
        self._left_to_keep = 0
        self._pieces = pieces
        self._held = b""
        self._at = 0

    def at_end(self) -> bool:
        """Whether nothing follows."""
        while self._at >= len(self._held):
            piece = next(self._pieces, None)
            if piece is None:
                return True
            self._held, self._at = piece, 0
        return False

    def _advance(self, count: int) -> bytes:
        part = self._held[self._at : self._at + count]
        self._at += len(part)
        self.taken += len(part)
        if self._left_to_keep > 0:
            self._kept.append(part)
            self._left_to_keep -= len(part)
        return part

    def keep(self, most_bytes: int) -> None:
        """From now on keeps what is taken, until it is more than `most_bytes`."""
        self._kept = []
        self._left_to_keep = most_bytes

    def back_to_next_version(self) -> None:
        """Goes on where the next first line of a record stands after the first byte that is kept; or at the end."""
        kept = b"".join(self._kept) if self._left_to_keep > 0 else b""
        self.keep(0)
        self.taken -= len(kept)
        self._held, self._at = kept + self._held[self._at :], 0
        self._advance(1 if kept else 0)
        while not self.at_end():
            found = self._held.find(VERSION, self._at)
            place = found if found >= 0 else max(self._at, len(self._held) - len(VERSION) + 1)
            self._advance(place - self._at)
            if found < 0 or len(self._held) - place < FIRST_LINE:  # what is looked for may go on in the next piece
                piece = next(self._pieces, None)
                if piece is not None:
                    self._held, self._at = self._held[self._at :] + piece, 0
                    continue
            if _FIRST_LINE.match(self._held, self._at):
                return
            self._advance(1)

    def skip_blank(self) -> None:
        """Passes over line ends."""
        while not self.at_end():
            end = _BLANK.match(self._held, self._at).end()  # type: ignore[union-attr]
            if end == self._at:
                return
            self._advance(end - self._at)

    def line(self, most_bytes: int) -> bytes:
        """The next line with its end, or its first `most_bytes`; b"" at the end."""
        parts: list[bytes] = []
        while most_bytes > 0 and not self.at_end():
            end = self._held.find(b"\n", self._at, self._at + most_bytes)
            parts.append(self._advance(most_bytes if end < 0 else end + 1 - self._at))
            most_bytes -= len(parts[-1])
            if end >= 0:
                break
        return b"".join(parts)

    def take(self, count: int) -> bytes:
        """The next bytes; fewer at the end."""
        parts: list[bytes] = []
        while count > 0 and not self.at_end():
            parts.append(self._advance(count))
            count -= len(parts[-1])
        return b"".join(parts)

    def skip(self, count: int) -> int:
        """Passes over bytes; returns how many there were."""
        wanted = count
        while count > 0 and not self.at_end():
            count -= len(self._advance(count))
        return wanted - count


def _pieces(file: BinaryIO, place: int) -> Iterator[bytes]:
    file.seek(place)
    while piece := file.read(PIECE):
        yield piece


class _Window:
    """Bytes of a file by their place, which come one after the other: each stretch is read once, in one request."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._start = 0
        self._held = b""

    def at(self, place: int) -> bytes:
        """Some bytes from `place` on; none at the end of the file."""
        if not self._start <= place < self._start + len(self._held):
            self._file.seek(place)
            self._start, self._held = place, self._file.read(PIECE)
        return self._held[place - self._start : place - self._start + PACKED_PIECE]


class _Member:
    """A gzip member that begins at a byte of a file."""

    def __init__(self, window: _Window, place: int) -> None:
        self._window = window
        self._unpacker = zlib.decompressobj(wbits=31)
        self._read = place  # the byte after what was given to the decompressor

    def pieces(self) -> Iterator[bytes]:
        """What it holds; zlib.error where it is damaged or cut short."""
        while not self._unpacker.eof:
            packed = self._unpacker.unconsumed_tail
            if not packed:
                packed = self._window.at(self._read)
                self._read += len(packed)
                if not packed:
                    raise zlib.error("cut short")
            piece = self._unpacker.decompress(packed, PIECE)
            if piece:
                yield piece

    def end(self) -> int | None:
        """The byte that the next member begins at, past zeros; None at the end of the file."""
        for _ in self.pieces():
            pass
        place = self._read - len(self._unpacker.unused_data)
        while content := self._window.at(place):
            if rest := content.lstrip(b"\0"):
                return place + len(content) - len(rest)
            place += len(content)
        return None


def _is_gzip(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(len(GZIP)) == GZIP


def _next_version(file: BinaryIO, start: int) -> int | None:
    """The first byte from `start` on at which the first line of a record stands."""
    while (found := _find(file, start, VERSION)) is not None:
        file.seek(found)
        if _FIRST_LINE.match(file.read(FIRST_LINE)):
            return found
        start = found + 1
    return None


def _next_member(file: BinaryIO, start: int) -> int | None:
    """The first byte from `start` on at which a gzip member begins that holds a record."""
    while (found := _find(file, start, GZIP)) is not None:
        try:
            if next(_Member(_Window(file), found).pieces(), b"").startswith(VERSION):
                return found
        except zlib.error:
            pass
        start = found + 1
    return None


def _find(file: BinaryIO, start: int, mark: bytes) -> int | None:
    """The first byte from `start` on at which `mark` stands."""
    file.seek(start)
    held = b""
    while content := file.read(PIECE):
        held += content
        found = held.find(mark)
        if found >= 0:
            return start + found
        start += max(0, len(held) - len(mark) + 1)
        held = held[max(0, len(held) - len(mark) + 1) :]
    return None

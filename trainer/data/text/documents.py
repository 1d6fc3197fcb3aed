"""A source → its documents, each UTF-8 and bounded in size, and records that hold none, each with a reason."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

from trainer.data.text.encodings import likely_encoding
from trainer.data.text.file_names import escape
from trainer.data.text.filters import (
    BAD_JSON,
    EMPTY,
    LINK,
    NO_TEXT_FIELD,
    OTHER_FORMAT,
    TOO_LARGE,
    UNDECODABLE,
    rejection,
    undecodable_at,
)
from trainer.data.text.formats import SNIFFED, is_code, is_json_lines, kind_by_name, other_format, unreadable
from trainer.data.text.packed import beginning, lines, pieces
from trainer.data.text.sources import Source
from trainer.data.tokens.tars import Member, read_samples, texts_of
from trainer.errors import InputError

OTHER_FIELDS = 2**20  # bytes that a JSON line may have besides its document
MOST_NAMED = 8  # fields or endings that an error lists
MOST_CHARACTERS = 100  # of a name from within a file
SAMPLE = 2**16  # bytes by which the encoding is guessed
BESIDE = "members of tars beside the text of their sample"

_IN_WORDS = {
    UNDECODABLE: "not UTF-8 text",
    TOO_LARGE: "too large for a document",
    OTHER_FORMAT: "can't be read as text",
}
_MENDS = {
    UNDECODABLE: "convert it to UTF-8",
    BAD_JSON: "write one JSON object to a line",
    NO_TEXT_FIELD: "set data.text_field to the field that holds the text",
    TOO_LARGE: "raise data.most_document_bytes, or cut it into documents",
    OTHER_FORMAT: "convert it to JSON lines or text",
    LINK: "write the archive again with the files themselves",
}


@dataclass(frozen=True)
class Rejected:
    """A record that holds no document, why, and where in its file; `sample` is of what isn't UTF-8."""

    reason: str
    detail: str = field(default="", compare=False)
    place: str = field(default="", compare=False)
    sample: bytes = field(default=b"", compare=False)

    def at(self, place: str) -> Rejected:
        """The same at this place of its file, such as "line 3"."""
        return replace(self, place=place)

    def __str__(self) -> str:
        encoding = likely_encoding(self.sample) if self.sample else ""
        return ": ".join(part for part in (self.place, self.detail, encoding) if part)


def read_documents(
    source: Source, text_field: str, most_bytes: int, unused: Counter[str] | None = None
) -> Iterator[tuple[int, bytes | Rejected]]:
    """The records of a source with their numbers from 0 (a text file's only one, a line, a tar's sample).

    A document is UTF-8, has more than white space and at most `most_bytes`; other records come as rejected. `unused`
    counts a tar's members beside the text of their sample. A broken file, or one of which no record has `text_field`,
    is refused by name.
    """
    try:
        if source.kind == "tar":
            yield from _read_tar(source, text_field, most_bytes, Counter() if unused is None else unused)
        else:
            yield from _read_plain(source, text_field, most_bytes)
    except OSError as error:
        raise InputError(f"{escape(source.path)}: can't be read ({error.strerror or error}).") from error


def without_mark(text: bytes) -> bytes:
    """Drops a leading UTF-8 byte order mark, which is no part of the text."""
    return text.removeprefix(codecs.BOM_UTF8)


def _read_plain(source: Source, text_field: str, most_bytes: int) -> Iterator[tuple[int, bytes | Rejected]]:
    """A text or JSON lines: the content decides, under any name."""
    unpacked = pieces(source.path, source.packing, most_bytes)
    head, begun, whole = beginning(unpacked, SNIFFED)
    content = chain(begun, unpacked)
    if source.kind == "jsonl" or _is_json_lines(source.path.name, head, whole=whole, text_field=text_field):
        yield from _read_jsonl(source, content, text_field, most_bytes)
        return
    what = _other_format(source.path.name, head, whole=whole, text_field=text_field)
    document = Rejected(OTHER_FORMAT, what) if what else _read_text(source, content, most_bytes)
    if source.kind == "json" and isinstance(document, bytes):
        document = Rejected(OTHER_FORMAT, "JSON that isn't one object to a line")
    if isinstance(document, Rejected) and _must_be_text(source, document.reason):
        raise InputError(
            f"{escape(source.path)}: {_IN_WORDS[document.reason]} ({document}): "
            f"{_MENDS[document.reason]}, or leave it out of data.input."
        )
    yield 0, document


def _must_be_text(source: Source, reason: str) -> bool:
    """Whether prepare stops where this source can't be read for that reason."""
    if reason == OTHER_FORMAT and kind_by_name(source.path.name) in (None, ("json", source.packing)):
        return True  # taken for data.include
    return source.strict and reason != EMPTY


def _is_json_lines(name: str, head: bytes, *, whole: bool, text_field: str) -> bool:
    """Whether content is JSON lines; code, which may look like anything, only where they hold the text's field."""
    return is_json_lines(head, whole=whole, text_field=text_field if is_code(name) else None)


def _other_format(name: str, head: bytes, *, whole: bool, text_field: str) -> str | None:
    """What content is if it isn't text, by its beginning; code may look like anything."""
    return None if is_code(name) else other_format(head, whole=whole, text_field=text_field)


def _read_text(source: Source, content: Iterator[bytes], most_bytes: int) -> bytes | Rejected:
    if not source.packing and source.bytes > most_bytes:
        return _too_large(source.bytes, most_bytes)
    held, size = [], 0
    for piece in content:
        held.append(piece)
        size += len(piece)
        if size > most_bytes:
            return _too_large(size, most_bytes)
    return _checked(without_mark(b"".join(held)))


def _too_large(size: int, most_bytes: int) -> Rejected:
    return Rejected(TOO_LARGE, f"{size:,} bytes or more, data.most_document_bytes={most_bytes}")


def _checked(text: bytes) -> bytes | Rejected:
    """A document's text, if it can be used."""
    reason = rejection(text)
    if reason is None:
        return text
    place = undecodable_at(text)
    if place is None:
        return Rejected(reason)
    start = max(0, place - SAMPLE // 2)
    return Rejected(reason, f"byte {place + 1:,}", sample=text[start : start + SAMPLE])


class _Tally:
    """What became of the records of a file: so that one without any text is refused, in a line that says why."""

    def __init__(self) -> None:
        self.with_text = 0
        self.rejected: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, document: bytes | Rejected) -> None:
        """Counts a record; an empty text is a text."""
        if isinstance(document, Rejected) and document.reason != EMPTY:
            self.rejected[document.reason] += 1
            if document.reason not in self.first:
                self.first[document.reason] = str(document)
        else:
            self.with_text += 1

    def __str__(self) -> str:
        return "; ".join(f"{count:,} {reason}, first {self.first[reason]}" for reason, count in self.rejected.items())

    @property
    def mend(self) -> str:
        """What to do about the most usual problem."""
        return _MENDS[self.rejected.most_common(1)[0][0]]


def _read_jsonl(
    source: Source, content: Iterator[bytes], text_field: str, most_bytes: int
) -> Iterator[tuple[int, bytes | Rejected]]:
    tally = _Tally()
    for record, line in enumerate(lines(content, most_bytes + OTHER_FIELDS)):
        if line is None:
            document: bytes | Rejected = _too_large(most_bytes + OTHER_FIELDS, most_bytes)
        elif line := line.strip():
            document = _text_of_line(without_mark(line), text_field, most_bytes)
        else:
            continue
        if isinstance(document, Rejected):
            document = document.at(f"line {record + 1}")
        tally.add(document)
        yield record, document
    if tally.rejected and not tally.with_text and (source.strict or source.kind != "text"):
        raise InputError(
            f'{escape(source.path)}: no record has a text in data.text_field="{text_field}" ({tally}): {tally.mend}.'
        )


def _text_of_line(line: bytes, text_field: str, most_bytes: int) -> bytes | Rejected:
    """The text of a JSON line."""
    if b"\0" in line:
        return _checked(line)
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return _checked(line)
    except (ValueError, RecursionError):
        return Rejected(BAD_JSON, "is not JSON")
    if not isinstance(record, dict):
        return Rejected(BAD_JSON, "is no JSON object")
    text = record.get(text_field)
    if not isinstance(text, str):
        return Rejected(NO_TEXT_FIELD, f"has the fields {_list(map(repr, record)) or 'of an empty object'}")
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair, written as \ud83d
        return Rejected(UNDECODABLE, "half a surrogate pair")
    if len(encoded) > most_bytes:
        return _too_large(len(encoded), most_bytes)
    return _checked(encoded)


def _read_tar(
    source: Source, text_field: str, most_bytes: int, unused: Counter[str]
) -> Iterator[tuple[int, bytes | Rejected]]:
    """The text members of a tar, by WebDataset's rules: of each sample the member `text_field`, or else `txt`."""
    tally, record, endings = _Tally(), -1, set[str]()
    with open(source.path, "rb") as file:
        for record, member in enumerate(_members_of(source.path, text_field, endings, unused)):
            if isinstance(member, Member):
                document = _text_of_member(file, member, text_field, most_bytes)
                document = document.at(_short(member.name)) if isinstance(document, Rejected) else document
            else:
                document = member
            tally.add(document)
            yield record, document
    if record < 0:
        raise InputError(
            f"{escape(source.path)}: the archive holds no file; remove it from data.input, or write it again."
        )
    if not tally.with_text:
        known = _list(f".{ending}" for ending in sorted(endings))
        problem = f"no sample has a text in a member .{text_field} or .txt ({tally}; members: {known or 'no ending'})"
        raise InputError(f"{escape(source.path)}: {problem}: {tally.mend}.")


def _members_of(path: Path, text_field: str, endings: set[str], unused: Counter[str]) -> Iterator[Member | Rejected]:
    """The members that hold the texts; each sample and member without any comes as rejected."""
    for found in read_samples(path):
        if isinstance(found, Member):
            why = "a link or device" if found.link else "a name that WebDataset passes over"
            yield Rejected(LINK if found.link else NO_TEXT_FIELD, why).at(_short(found.name))
            continue
        endings.update(found.members)
        texts = texts_of(path, found, text_field)
        unused[BESIDE] += len(found.members) - max(1, len(texts))
        yield from texts
        if not texts:
            members = _list(f".{ending}" for ending in found.members)
            yield Rejected(NO_TEXT_FIELD, f"has the members {members}").at(_short(found.key))


def _text_of_member(file: BinaryIO, member: Member, text_field: str, most_bytes: int) -> bytes | Rejected:
    if member.bytes > most_bytes:
        return _too_large(member.bytes, most_bytes)
    file.seek(member.offset)
    text = without_mark(file.read(member.bytes))
    what, head, whole = unreadable(member.name), text[:SNIFFED], len(text) <= SNIFFED
    if what is None and _is_json_lines(member.name, head, whole=whole, text_field=text_field):
        what = "JSON lines"
    what = what or _other_format(member.name, head, whole=whole, text_field=text_field)
    return Rejected(OTHER_FORMAT, what) if what else _checked(text)


def _short(name: str) -> str:
    """A name from within a file, which may be of any length and hold anything."""
    name = escape(name[:MOST_CHARACTERS])
    return f"{name[:MOST_CHARACTERS]}…" if len(name) >= MOST_CHARACTERS else name


def _list(names: Iterable[str]) -> str:
    """The first few of them."""
    return ", ".join(map(_short, islice(names, MOST_NAMED)))

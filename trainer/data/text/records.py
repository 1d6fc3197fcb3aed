"""A record of a source: a document, which is UTF-8 text of bounded size, or rejected for a reason."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from trainer.data.text.encodings import likely_encoding
from trainer.data.text.file_names import escape
from trainer.data.text.filters import (
    BAD_JSON,
    BAD_RECORD,
    BAD_ROW,
    EMPTY,
    LINK,
    NO_TEXT_FIELD,
    OTHER_FORMAT,
    TOO_DEEP,
    TOO_LARGE,
    UNDECODABLE,
    rejection,
    undecodable_at,
)
from trainer.data.text.reading import Account
from trainer.errors import InputError

OTHER_FIELDS = 2**20  # bytes that a line or row may have besides its document
MOST_NAMED = 8  # fields or endings that an error lists
MOST_CHARACTERS = 100  # of a name from within a file
SAMPLE = 2**16  # bytes by which the encoding is guessed

IN_WORDS = {
    UNDECODABLE: "not UTF-8 text",
    TOO_LARGE: "too large for a document",
    TOO_DEEP: "nested too deeply",
    OTHER_FORMAT: "can't be read as text",
}
MENDS = {
    UNDECODABLE: "name its encoding by data.encoding, or convert it to UTF-8",
    BAD_JSON: "write one JSON object to a line",
    BAD_ROW: "write the table again with one record to a row, quoted as RFC 4180 has it",
    BAD_RECORD: "fetch or write it again",
    NO_TEXT_FIELD: "set data.text_field to the field that holds the text",
    TOO_LARGE: "raise data.most_document_bytes, or cut it into documents (data.separator)",
    TOO_DEEP: "simplify it",
    OTHER_FORMAT: "convert it to JSON lines or text",
    LINK: "write the archive again with the files themselves",
}


@dataclass(frozen=True)
class Rejected:
    """A record that holds no document, why, and where in its file; `sample` is of what isn't UTF-8.

    `place` is a name within the file or, with a `number` from 0, what is numbered there, such as "line".
    """

    reason: str
    detail: str = field(default="", compare=False)
    place: str = field(default="", compare=False)
    number: int | None = field(default=None, compare=False)
    sample: bytes = field(default=b"", compare=False)

    def at(self, place: str, number: int | None = None) -> Rejected:
        """The same at this place of its file: at("line", 2) is line 3."""
        return replace(self, place=place, number=number)

    def later(self, records: int) -> Rejected:
        """The same where so many records come before those that were counted so far."""
        return self if self.number is None else replace(self, number=self.number + records)

    def __str__(self) -> str:
        encoding = likely_encoding(self.sample) if self.sample else ""
        place = self.place if self.number is None else f"{self.place} {self.number + 1}"
        return ": ".join(part for part in (place, self.detail, encoding) if part)


Record = tuple[int, bytes | Rejected]
"""The number of a record in its file (or part of it), from 0, and its document, or why it holds none."""


def checked(text: bytes) -> bytes | Rejected:
    """A document's text, if it can be used."""
    reason = rejection(text)
    if reason is None:
        return text
    place = undecodable_at(text)
    if place is None:
        return Rejected(reason)
    start = max(0, place - SAMPLE // 2)
    return Rejected(reason, f"byte {place + 1:,}", sample=text[start : start + SAMPLE])


def checked_string(text: str, most_bytes: int) -> bytes | Rejected:
    """A document that a library gave as a string."""
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair, written as \ud83d
        return Rejected(UNDECODABLE, "half a surrogate pair")
    return too_large(len(encoded), most_bytes) if len(encoded) > most_bytes else checked(encoded)


def too_large(size: int, most_bytes: int) -> Rejected:
    """A record of `size` bytes or more."""
    return Rejected(TOO_LARGE, f"{size:,} bytes or more, data.most_document_bytes={most_bytes}")


def without_mark(text: bytes) -> bytes:
    """Drops a leading UTF-8 byte order mark, which is no part of the text."""
    return text.removeprefix(codecs.BOM_UTF8)


def counted(records: Iterable[Record], account: Account, change: str) -> Iterator[Record]:
    """The records; counts the documents among them as changed in this way."""
    for number, document in records:
        account.changed[change] += isinstance(document, bytes)
        yield number, document


class RecordTally:
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
        return MENDS[self.rejected.most_common(1)[0][0]]


def refuse_without_text(records: Iterable[Record], address: str, text_field: str) -> Iterator[Record]:
    """The records. InputError at their end if some were rejected and none has a text."""
    tally = RecordTally()
    for number, document in records:
        tally.add(document)
        yield number, document
    if tally.rejected and not tally.with_text:
        raise InputError(
            f'{escape(address)}: no record has a text in data.text_field="{text_field}" ({tally}): {tally.mend}.'
        )


def short(name: str) -> str:
    """A name from within a file, which may be of any length and hold anything."""
    name = escape(name[:MOST_CHARACTERS])
    return f"{name[:MOST_CHARACTERS]}…" if len(name) >= MOST_CHARACTERS else name


def first_few(names: Iterable[str]) -> str:
    """The first few of them."""
    return ", ".join(map(short, islice(names, MOST_NAMED)))

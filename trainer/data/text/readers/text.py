"""Text and code: a file is a document, or holds several between data.separator. The content decides, under any name."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from trainer.data.text.encodings import known_encoding, to_utf8
from trainer.data.text.file_names import escape
from trainer.data.text.files import open_file
from trainer.data.text.filters import EMPTY, OTHER_FORMAT
from trainer.data.text.formats import SNIFFED, is_code, is_html, is_json_lines, kind_by_name, other_format
from trainer.data.text.packed import beginning, separated, whole
from trainer.data.text.readers import html, json_lines
from trainer.data.text.readers.line_parts import bytes_of_part
from trainer.data.text.readers.reader import Reader
from trainer.data.text.reading import UTF_8, WHOLE, Account, Part, Reading
from trainer.data.text.records import IN_WORDS, MENDS, Record, Rejected, checked, counted, too_large, without_mark
from trainer.data.text.sources import Source, content_of
from trainer.errors import InputError

LINES, PAGE, SEPARATED, SINGLE = "lines", "page", "separated", "single"
"""What a file may hold: JSON lines, HTML, documents between separators, or one (or what is none)."""


def read(source: Source, part: Part, account: Account) -> Iterator[Record]:
    """The document of a file, its documents between separators, or the records of what else it turns out to hold."""
    reading = source.reading
    if not part.is_whole:
        is_lines = _content(source) == LINES
        with open_file(source.address) as file:
            content = bytes_of_part(file, part, b"\n" if is_lines else reading.separator)
            yield from (json_lines.read_lines if is_lines else _read_separated)(content, reading, account)
        return
    with content_of(source) as unpacked:
        head, begun, is_all = beginning(unpacked, SNIFFED)
        content = chain(begun, unpacked)
        encoding = known_encoding(head, reading)
        decoded = head if encoding == UTF_8 else b"".join(to_utf8(iter([head]), encoding))
        kind = _kind(source, decoded, is_all=is_all)
        if kind == LINES:
            yield from json_lines.read_content(source, head, content, account)
        elif kind == PAGE:
            yield 0, html.read_whole(content, reading, account)
        else:
            in_utf8 = content if encoding == UTF_8 else to_utf8(content, encoding)
            if kind == SEPARATED:
                records = _read_separated(in_utf8, reading, account)
            else:
                records = _read_single(source, what_else(source.file_name, decoded, reading, is_all=is_all), in_utf8)
                account.records = 1
            yield from records if encoding == UTF_8 else counted(records, account, f"decoded from {encoding}")


def parts(source: Source, wanted_bytes: int) -> list[Part]:
    """Ranges of a file with separators, or of JSON lines under another name."""
    return json_lines.line_parts(source, wanted_bytes) if _content(source) in (LINES, SEPARATED) else [WHOLE]


def _content(source: Source) -> str:
    """What a file in UTF-8 holds, by its beginning."""
    with content_of(source) as unpacked:
        head, _, is_all = beginning(unpacked, SNIFFED)
    return _kind(source, head, is_all=is_all)


def _kind(source: Source, head: bytes, *, is_all: bool) -> str:
    """What content holds that begins with `head`; code, which may look like anything, is JSON lines with the field."""
    reading, code = source.reading, is_code(source.file_name)
    if reading.format is None:
        if is_json_lines(head, whole=is_all, text_field=reading.text_field if code else None):
            return LINES
        if not code and is_html(head):
            return PAGE
    is_text = what_else(source.file_name, head, reading, is_all=is_all) is None
    return SEPARATED if is_text and reading.separator and source.kind == "text" else SINGLE


def _read_single(source: Source, what: str | None, content: Iterator[bytes]) -> Iterator[Record]:
    document = _document(source, what, content)
    if isinstance(document, Rejected) and _must_be_text(source, document.reason):
        raise InputError(
            f"{escape(source.address)}: {IN_WORDS[document.reason]} ({document}): "
            f"{MENDS[document.reason]}, or leave it out of data.input."
        )
    yield 0, document


def what_else(name: str, head: bytes, reading: Reading, *, is_all: bool) -> str | None:
    """What content is if it isn't text, by its beginning; code may look like anything."""
    if reading.format is not None or is_code(name):
        return None
    return other_format(head, whole=is_all, text_field=reading.text_field)


def _document(source: Source, what: str | None, content: Iterator[bytes]) -> bytes | Rejected:
    """The document of a file that is one."""
    reading = source.reading
    if what is not None:
        return Rejected(OTHER_FORMAT, what)
    if not source.packing and source.bytes > reading.most_bytes:
        return too_large(source.bytes, reading.most_bytes)
    text = whole(content, reading.most_bytes)
    document = too_large(text, reading.most_bytes) if isinstance(text, int) else checked(without_mark(text))
    if source.kind == "json" and isinstance(document, bytes):
        return Rejected(OTHER_FORMAT, "JSON that isn't one object to a line")
    return document


def _must_be_text(source: Source, reason: str) -> bool:
    """Whether prepare stops where this source can't be read for that reason."""
    if reason == OTHER_FORMAT and kind_by_name(source.file_name) in (None, ("json", source.packing)):
        return True  # taken for data.include
    return source.strict and reason != EMPTY


def _read_separated(content: Iterator[bytes], reading: Reading, account: Account) -> Iterator[Record]:
    """What stands between separators; after the last one nothing need stand."""
    account.records = 0
    for number, text in enumerate(separated(content, reading.most_bytes, reading.separator)):
        account.records = number + 1
        document = too_large(reading.most_bytes, reading.most_bytes) if text is None else checked(without_mark(text))
        yield number, document.at("document", number) if isinstance(document, Rejected) else document


READER = Reader(read, parts)

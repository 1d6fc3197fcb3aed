"""JSON lines: a record to a line, its document under data.text_field."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from trainer.data.text.encodings import known_encoding, to_utf8
from trainer.data.text.files import open_file
from trainer.data.text.filters import BAD_JSON, NO_TEXT_FIELD
from trainer.data.text.formats import SNIFFED
from trainer.data.text.packed import beginning, lines, packing_of
from trainer.data.text.readers.line_parts import bytes_of_part, even_parts
from trainer.data.text.readers.reader import Reader
from trainer.data.text.reading import URL_FIELD, UTF_8, WHOLE, Account, Part, Reading
from trainer.data.text.records import (
    OTHER_FIELDS,
    Record,
    Rejected,
    checked,
    checked_string,
    counted,
    first_few,
    refuse_without_text,
    too_large,
    without_mark,
)
from trainer.data.text.sources import Source, content_of


def read(source: Source, part: Part, account: Account) -> Iterator[Record]:
    """The lines of a source."""
    reading = source.reading
    if not part.is_whole:
        with open_file(source.address) as file:
            yield from read_lines(bytes_of_part(file, part, b"\n"), reading, account)
        return
    with content_of(source) as content:
        head, begun, _ = beginning(content, SNIFFED)
        yield from read_content(source, head, chain(begun, content), account)


def read_content(source: Source, head: bytes, content: Iterable[bytes], account: Account) -> Iterator[Record]:
    """The lines of content that begins with `head`; InputError at the end if none has a text."""
    reading = source.reading
    encoding = known_encoding(head, reading)
    if encoding == UTF_8:
        records = read_lines(content, reading, account)
    else:
        records = read_lines(to_utf8(iter(content), encoding), reading, account)
        records = counted(records, account, f"decoded from {encoding}")
    if source.strict or source.kind != "text":
        records = refuse_without_text(records, source.address, reading.text_field)
    yield from records


def read_lines(content: Iterable[bytes], reading: Reading, account: Account) -> Iterator[Record]:
    """The records of lines in UTF-8, by line from 0; blank lines are none."""
    most = reading.most_bytes + OTHER_FIELDS
    account.records = 0
    for number, line in enumerate(lines(content, most)):
        account.records = number + (line != b"")
        if line is None:
            document: bytes | Rejected = too_large(most, reading.most_bytes)
        elif line := line.strip():
            document = _text_of_line(without_mark(line), reading, account)
        else:
            continue
        yield number, document.at("line", number) if isinstance(document, Rejected) else document


def line_parts(source: Source, wanted_bytes: int) -> list[Part]:
    """Ranges of a file that can be read from any line: it isn't packed, and is UTF-8."""
    if source.packing:
        return [WHOLE]
    with open_file(source.address) as file:
        head = file.read(SNIFFED)
    if packing_of(head) or known_encoding(head, source.reading) != UTF_8:
        return [WHOLE]
    return even_parts(source.bytes, wanted_bytes)


def _text_of_line(line: bytes, reading: Reading, account: Account) -> bytes | Rejected:
    """The text of a JSON line."""
    record = object_of_line(line)
    if isinstance(record, Rejected):
        return record
    if not isinstance(record, dict):
        return Rejected(BAD_JSON, "is no JSON object")
    document = text_of_object(record, reading)
    if isinstance(document, bytes):
        account.note_address(record.get(URL_FIELD))
    return document


def object_of_line(line: bytes) -> Any:
    """The value of a JSON text, or why it can't be read."""
    if b"\0" in line:
        return checked(line)
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return checked(line)
    except (ValueError, RecursionError):
        return Rejected(BAD_JSON, "is not JSON")


def text_of_object(record: dict[str, Any], reading: Reading) -> bytes | Rejected:
    """The text in an object's field."""
    text = record.get(reading.text_field)
    if not isinstance(text, str):
        return Rejected(NO_TEXT_FIELD, f"has the fields {first_few(map(repr, record)) or 'of an empty object'}")
    return checked_string(text, reading.most_bytes)


READER = Reader(read, line_parts)

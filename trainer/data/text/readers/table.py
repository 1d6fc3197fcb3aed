"""Tables of comma- or tab-separated values: a record to a row, its document in the column data.text_field."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import BinaryIO

from trainer.data.text.encodings import known_encoding, to_utf8
from trainer.data.text.file_names import escape
from trainer.data.text.files import open_file
from trainer.data.text.filters import BAD_ROW, UNDECODABLE
from trainer.data.text.formats import SNIFFED
from trainer.data.text.packed import PIECE, beginning, lines
from trainer.data.text.readers.json_lines import line_parts
from trainer.data.text.readers.reader import Reader
from trainer.data.text.reading import URL_FIELD, UTF_8, WHOLE, Account, Part
from trainer.data.text.records import (
    OTHER_FIELDS,
    Record,
    Rejected,
    checked,
    counted,
    first_few,
    refuse_without_text,
    too_large,
    without_mark,
)
from trainer.data.text.sources import SEPARATORS, Source, content_of
from trainer.errors import InputError

_SURROGATE = re.compile("[\ud800-\udfff]")  # by which a byte that isn't UTF-8 is told
MOST_FIELD = 2**31 - 1  # bytes of a field: `csv` wants a C long, and rows are bounded here


class _Lines:
    """Lines as `csv` wants them, and how many bytes they had so far. A line that is too long raises csv.Error.

    An iterator that isn't a generator, since reading goes on after an error.
    """

    def __init__(self, content: Iterable[bytes], source: Source, *, at_start: bool) -> None:
        self.place = 0
        self._marked = at_start  # so that a byte order mark may come
        self.of_row = 0  # bytes of the row under way
        self.skipped = False  # a line whose length isn't known
        self._most = source.reading.most_bytes + OTHER_FIELDS
        self._lines = lines(content, self._most)
        self._name = source.address

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        if line is None:
            self.skipped = True
            raise csv.Error(f"a line of more than {self._most:,} bytes")
        if self._marked:
            self.place += len(line) - len(without_mark(line))
            line, self._marked = without_mark(line), False
        self.place += len(line) + 1
        self.of_row += len(line) + 1
        if self.of_row > self._most:
            raise InputError(
                f"{escape(self._name)}: a quote before byte {self.place:,} isn't closed within {self._most:,} bytes: "
                "write the table again, quoted as RFC 4180 has it."
            )
        return line.decode("utf-8", "surrogateescape") + "\n"


def _rows(content: Iterable[bytes], source: Source, *, at_start: bool = True) -> Iterator[tuple[int, list[str] | str]]:
    """The rows, each with the byte that it begins at; what is wrong in place of one that is broken, up to a line's end.

    Blank lines are no rows.
    """
    return _rows_of(_Lines(content, source, at_start=at_start), SEPARATORS[source.kind])


def _rows_of(lines: _Lines, separator: str) -> Iterator[tuple[int, list[str] | str]]:
    csv.field_size_limit(MOST_FIELD)
    reader = csv.reader(lines, delimiter=separator, strict=True)
    while True:
        begin, lines.of_row = lines.place, 0
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield begin, str(error)
            continue
        if row is None:
            return
        if row:
            yield begin, row


def read(source: Source, part: Part, account: Account) -> Iterator[Record]:
    """The rows of a table but its first, which names the columns."""
    reading = source.reading
    if not part.is_whole:
        with open_file(source.address) as file:
            columns = _columns(source, _rows(_bytes_between(file, 0, None), source))
            at_start = part.start == 0
            rows = _rows(_bytes_between(file, part.start, part.stop), source, at_start=at_start)
            if at_start:
                next(rows)  # the columns' names
            yield from _records(source, columns, rows, account)
        return
    with content_of(source) as content:
        head, begun_pieces, _ = beginning(content, SNIFFED)
        encoding = known_encoding(head, reading)
        content = chain(begun_pieces, content)
        rows = _rows(content if encoding == UTF_8 else to_utf8(content, encoding), source)
        records: Iterator[Record] = _records(source, _columns(source, rows), rows, account)
        if encoding != UTF_8:
            records = counted(records, account, f"decoded from {encoding}")
        yield from refuse_without_text(records, source.address, reading.text_field)


def rows_by_column(source: Source) -> Iterator[tuple[int, dict[str, str] | Rejected]]:
    """The rows of a whole table in UTF-8, each with its fields by the names in the first row."""
    with content_of(source) as content:
        rows = _rows(content, source)
        columns = _names(source, rows)
        if len(set(columns)) < len(columns):
            raise InputError(
                f"{escape(source.address)}: two columns have one name ({first_few(columns)}); rename one of them."
            )
        for number, (_, row) in enumerate(rows):
            if isinstance(row, str) or len(row) != len(columns):
                yield number, _bad_row(row, columns).at("row", number)
            elif _SURROGATE.search("".join(row)):
                yield number, Rejected(UNDECODABLE, "not UTF-8").at("row", number)
            else:
                yield number, dict(zip(columns, row, strict=True))


def _bad_row(row: list[str] | str, columns: list[str]) -> Rejected:
    return Rejected(BAD_ROW, row if isinstance(row, str) else f"{len(row)} fields of {len(columns)}")


def _names(source: Source, rows: Iterator[tuple[int, list[str] | str]]) -> list[str]:
    """The names in the first row."""
    _, columns = next(rows, (0, ""))
    if isinstance(columns, str):
        raise InputError(
            f"{escape(source.address)}: no table ({columns or 'it is empty'}); leave it out of data.input."
        )
    return columns


def _columns(source: Source, rows: Iterator[tuple[int, list[str] | str]]) -> list[str]:
    """The names in the first row. InputError without the text's among them."""
    columns = _names(source, rows)
    if source.reading.text_field not in columns:
        raise InputError(
            f"{escape(source.address)}: no column {escape(source.reading.text_field)} in its first row "
            f"({first_few(columns)}): set data.text_field to the column that holds the text."
        )
    return columns


def _records(
    source: Source, columns: list[str], rows: Iterator[tuple[int, list[str] | str]], account: Account
) -> Iterator[Record]:
    reading, column = source.reading, columns.index(source.reading.text_field)
    addresses = columns.index(URL_FIELD) if URL_FIELD in columns else None
    account.records = 0
    for number, (_, row) in enumerate(rows):
        account.records = number + 1
        if isinstance(row, str) or len(row) != len(columns):
            document: bytes | Rejected = _bad_row(row, columns)
        else:
            text = row[column].encode("utf-8", "surrogateescape")
            document = too_large(len(text), reading.most_bytes) if len(text) > reading.most_bytes else checked(text)
            if addresses is not None and isinstance(document, bytes):
                account.note_address(row[addresses])
        yield number, document.at("row", number) if isinstance(document, Rejected) else document


def _bytes_between(file: BinaryIO, place: int, stop: int | None) -> Iterator[bytes]:
    file.seek(place)
    while content := file.read(PIECE if stop is None else min(PIECE, stop - place)):
        place += len(content)
        yield content


def parts(source: Source, wanted_bytes: int) -> list[Part]:
    """Ranges of rows. A line feed may stand within quotes, so the table is read once to see where rows begin."""
    wanted = line_parts(source, wanted_bytes)
    if wanted == [WHOLE]:
        return wanted
    edges = [part.start for part in wanted[1:]]
    starts = [0]
    with open_file(source.address) as file:
        read_lines = _Lines(_bytes_between(file, 0, None), source, at_start=True)
        for begin, _ in _rows_of(read_lines, SEPARATORS[source.kind]):
            if edges and begin >= edges[0]:
                starts.append(begin)
                edges = [edge for edge in edges if edge > begin]
    if read_lines.skipped or len(starts) == 1:
        return [WHOLE]
    stops = [*starts[1:], None]
    return [
        Part(start, stop, (source.bytes if stop is None else stop) - start)
        for start, stop in zip(starts, stops, strict=True)
    ]


READER = Reader(read, parts, parts_take_a_pass=True)

"""Examples in columns: rows of Parquet, Arrow, CSV and TSV as records with a field for each column.

Fields that are lists, such as the messages of a chat, may be lists, or text that is JSON, as in CSV they must be.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

from trainer.data.text.files import open_file
from trainer.data.text.filters import BAD_RECORD
from trainer.data.text.readers import arrow, parquet, table
from trainer.data.text.readers.columns import BROKEN, line_of
from trainer.data.text.records import Rejected
from trainer.data.text.sources import Source

LISTS = ("messages", "conversations", "conversation", "history", "tools", "tokens", "tags", "segments")
ROWS = 64  # made into records at a time

Row = tuple[int, dict[str, Any] | Rejected]


def _of_parquet(source: Source, file: BinaryIO) -> Iterator[Row]:
    found = parquet.open_parquet(source, file)
    number = 0
    for group in range(found.num_row_groups):
        stop = number + max(0, found.metadata.row_group(group).num_rows)
        at_once = 1 if parquet.may_grow(found.metadata, group) else ROWS
        try:
            for batch in found.iter_batches(at_once, row_groups=[group], use_threads=False):
                yield from _rows_of(source, batch, number)
                number += len(batch)
            if number != stop:
                raise ValueError(f"{stop - number:,} rows are missing")
        except BROKEN as error:
            yield number, Rejected(BAD_RECORD, f"row group {group + 1} is broken ({line_of(error)})")
            number = max(stop, number + 1)


def _of_arrow(source: Source, file: BinaryIO) -> Iterator[Row]:
    number = 0
    for batch in arrow.batches(source, file):
        for start in range(0, len(batch), ROWS):
            yield from _rows_of(source, batch.slice(start, ROWS), number + start)
        number += len(batch)


def _rows_of(source: Source, batch: Any, first: int) -> Iterator[Row]:
    """The rows of a batch, numbered from `first`; one that doesn't hold what it claims is rejected alone."""
    for place in range(len(batch)):
        number, row = first + place, batch.slice(place, 1)
        try:
            row.validate(full=True)
            yield number, row.to_pylist()[0]
        except (*BROKEN, RecursionError) as error:
            yield number, Rejected(BAD_RECORD, line_of(error)).at("row", number)


def _of_table(source: Source, file: BinaryIO) -> Iterator[Row]:
    return table.rows_by_column(source)


READERS: dict[str, Callable[[Source, BinaryIO], Iterable[Row]]] = {
    "parquet": _of_parquet,
    "arrow": _of_arrow,
    "csv": _of_table,
    "tsv": _of_table,
}


def read_columns(source: Source) -> Iterator[Row]:
    """The rows of a source with their numbers from 0. InputError where it is no whole file of its kind."""
    with open_file(source.address) as file:
        for number, row in READERS[source.kind](source, file):
            yield number, row if isinstance(row, Rejected) else _with_lists(row, source.reading.text_field)


def _with_lists(row: dict[str, Any], text_field: str) -> dict[str, Any]:
    """The fields that are there, those that are lists in place of the JSON that stands for them."""
    fields = {name: _without_nulls(value) for name, value in row.items() if value is not None}
    for name in (*LISTS, text_field):
        value = fields.get(name)
        if isinstance(value, str) and value.lstrip()[:1] == "[":
            try:
                fields[name] = json.loads(value)
            except (ValueError, RecursionError):
                continue  # text, then; what a chat must be is the format's to say
    return fields


def _without_nulls(value: Any) -> Any:
    """A value as JSON lines would have it: a column gives each record all fields that any record has."""
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return value

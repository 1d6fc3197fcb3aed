"""Parquet: the column data.text_field, row group by row group, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from trainer.data.text.file_names import escape
from trainer.data.text.files import open_file
from trainer.data.text.filters import BAD_RECORD
from trainer.data.text.readers.columns import BROKEN, check_column, counted_domains, line_of, pyarrow, records_of
from trainer.data.text.readers.reader import Reader
from trainer.data.text.reading import URL_FIELD, WHOLE, Account, Part
from trainer.data.text.records import Record, Rejected, refuse_without_text
from trainer.data.text.sources import Source
from trainer.errors import InputError

ROWS = 64  # decoded at a time: a value that is stored once may be in all of them
GROWING = 2**22  # bytes of a column in a row group; ROWS times as much may be held
BUFFER = 2**20  # bytes of a column that are read at once, instead of all of a row group's


def read(source: Source, part: Part, account: Account) -> Iterator[Record]:
    """The rows of the row groups in a part. A row group that is broken is a record that is rejected."""
    with open_file(source.address) as file:
        parquet = _open(source, file)
        stop = parquet.num_row_groups if part.stop is None else part.stop
        records = _read_groups(source, parquet, range(part.start, stop), account)
        if part.is_whole:
            records = refuse_without_text(records, source.address, source.reading.text_field)
        yield from records


def open_parquet(source: Source, file: BinaryIO, **options: Any) -> Any:
    """The file. InputError if the end, which says where all is, can't be read."""
    try:
        found = pyarrow(source, "parquet").ParquetFile(file, pre_buffer=False, buffer_size=BUFFER, **options)
        found.schema_arrow  # noqa: B018 - read now
    except BROKEN as error:
        raise InputError(
            f"{escape(source.address)}: no whole Parquet file ({line_of(error)}); fetch or write it again."
        ) from error
    return found


def _open(source: Source, file: BinaryIO) -> Any:
    """The file, once its column is there."""
    found = open_parquet(source, file)
    check_column(source, found.schema_arrow)
    text_field = source.reading.text_field
    if any(may_grow(found.metadata, group, text_field) for group in range(found.num_row_groups)):
        return open_parquet(source, file, read_dictionary=[text_field])
    return found


def may_grow(metadata: Any, group: int, text_field: str | None = None) -> bool:
    """Whether ROWS values of a row group could be far more than what is stored, as equal ones are stored once.

    Of the column `text_field`, or of any.
    """
    for column in map(metadata.row_group(group).column, range(metadata.num_columns)):
        large = not 0 <= column.total_uncompressed_size <= GROWING
        if large and column.has_dictionary_page and text_field in (None, column.path_in_schema):
            return True
    return False


def _read_groups(source: Source, parquet: Any, groups: range, account: Account) -> Iterator[Record]:
    text_field = source.reading.text_field
    columns = [text_field, *[URL_FIELD] * (parquet.schema_arrow.names.count(URL_FIELD) == 1)]
    account.records = 0
    for group in groups:
        number, rows = account.records, max(0, parquet.metadata.row_group(group).num_rows)
        account.records = stop = number + rows
        try:
            batches = parquet.iter_batches(ROWS, row_groups=[group], columns=columns, use_threads=False)
            for batch in batches:
                yield from counted_domains(records_of(source, batch.column(text_field), number), batch, account)
                number += len(batch)
            if number != stop:
                raise ValueError(f"{stop - number:,} rows are missing")
        except BROKEN as error:  # before the first row of a batch
            account.records = max(stop, number + 1)
            problem = f"row group {group + 1} is broken ({line_of(error)}), {max(0, stop - number):,} of its rows"
            yield number, Rejected(BAD_RECORD, f"{problem} can't be read")


def parts(source: Source, wanted_bytes: int) -> list[Part]:
    """Row groups together, by the bytes that they take in the file."""
    with open_file(source.address) as file:
        metadata = _open(source, file).metadata
        sizes = [_bytes_of(metadata.row_group(group)) for group in range(metadata.num_row_groups)]
    starts, size = [0], 0
    for group, more in enumerate(sizes):
        if size and size + more > wanted_bytes:
            starts.append(group)
            size = 0
        size += more
    if len(starts) == 1:
        return [WHOLE]
    return [Part(start, stop, sum(sizes[start:stop])) for start, stop in zip(starts, [*starts[1:], None], strict=True)]


def _bytes_of(group: Any) -> int:
    return sum(max(0, group.column(column).total_compressed_size) for column in range(group.num_columns))


READER = Reader(read, parts)

"""Arrow files and streams, and so datasets that `datasets` saved on disk: the column data.text_field, by batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from trainer.data.text.file_names import escape
from trainer.data.text.files import open_file
from trainer.data.text.filters import BAD_RECORD
from trainer.data.text.readers.columns import BROKEN, check_column, counted_domains, line_of, pyarrow, records_of
from trainer.data.text.readers.reader import Reader
from trainer.data.text.reading import WHOLE, Account, Part
from trainer.data.text.records import Record, Rejected, refuse_without_text
from trainer.data.text.sources import Source
from trainer.errors import InputError

FILE_MAGIC = b"ARROW1"
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


def read(source: Source, part: Part, account: Account) -> Iterator[Record]:
    """The rows of the batches in a part. Of a file, a batch that is broken is a record that is rejected."""
    with open_file(source.address) as file:
        records = _of_file(source, file, part, account) if _is_file(file) else _of_stream(source, file, account)
        if part.is_whole:
            records = refuse_without_text(records, source.address, source.reading.text_field)
        yield from records


def _is_file(file: BinaryIO) -> bool:
    """Whether it is in the format with an index at its end, rather than a stream."""
    magic = file.read(len(FILE_MAGIC))
    file.seek(0)
    return magic == FILE_MAGIC


def _of_file(source: Source, file: BinaryIO, part: Part, account: Account) -> Iterator[Record]:
    account.records = 0
    reader = _open(source, pyarrow(source, "ipc").open_file, file)
    stop = reader.num_record_batches if part.stop is None else part.stop
    for batch in range(part.start, stop):
        first = account.records
        try:
            found = reader.get_batch(batch)
            column = found.column(source.reading.text_field)
            account.records += len(column)
            yield from counted_domains(records_of(source, column, first), found, account)
        except BROKEN as error:  # before its first row
            account.records = first + 1
            yield first, Rejected(BAD_RECORD, f"batch {batch + 1} is broken ({line_of(error)})")


def _of_stream(source: Source, file: BinaryIO, account: Account) -> Iterator[Record]:
    account.records = 0
    _require_end(source, file)
    reader = _open(source, pyarrow(source, "ipc").open_stream, file)
    try:
        for batch in reader:
            column = batch.column(source.reading.text_field)
            yield from counted_domains(records_of(source, column, account.records), batch, account)
            account.records += len(column)
    except BROKEN as error:
        raise _broken(source, line_of(error)) from error


def _require_end(source: Source, file: BinaryIO) -> None:
    """Refuses a stream that is cut between batches, which the library takes for a whole one."""
    file.seek(-min(len(END_OF_STREAM), file.seek(0, 2)), 2)
    if file.read() != END_OF_STREAM:
        raise _broken(source, "it has no end")
    file.seek(0)


def _open(source: Source, opener: Any, file: BinaryIO) -> Any:
    reader = _opened(source, opener, file)
    check_column(source, reader.schema)
    return reader


def _opened(source: Source, opener: Any, file: BinaryIO) -> Any:
    try:
        reader = opener(file)
        reader.schema  # noqa: B018 - read now
    except BROKEN as error:
        raise _broken(source, line_of(error)) from error
    return reader


def batches(source: Source, file: BinaryIO) -> Iterator[Any]:
    """All columns, batch by batch. InputError where it isn't whole."""
    is_file = _is_file(file)
    if not is_file:
        _require_end(source, file)
    ipc = pyarrow(source, "ipc")
    reader = _opened(source, ipc.open_file if is_file else ipc.open_stream, file)
    try:
        yield from map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
    except BROKEN as error:
        raise _broken(source, line_of(error)) from error


def _broken(source: Source, problem: str) -> InputError:
    return InputError(f"{escape(source.address)}: no whole Arrow file or stream ({problem}); fetch or write it again.")


def parts(source: Source, wanted_bytes: int) -> list[Part]:
    """Batches together, in equal numbers, of a file; a stream has no index."""
    with open_file(source.address) as file:
        if not _is_file(file):
            return [WHOLE]
        batches = _open(source, pyarrow(source, "ipc").open_file, file).num_record_batches
    count = min(batches, source.bytes // max(1, wanted_bytes))
    if count < 2:
        return [WHOLE]
    starts = [batches * edge // count for edge in range(count)]
    stops = [*starts[1:], None]
    return [Part(start, stop, source.bytes // count) for start, stop in zip(starts, stops, strict=True)]


READER = Reader(read, parts)

"""What Parquet and Arrow have in common: a column of text in batches of rows, by pyarrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from trainer.data.text.file_names import escape
from trainer.data.text.filters import NO_TEXT_FIELD
from trainer.data.text.libraries import library
from trainer.data.text.reading import URL_FIELD, Account, Reading
from trainer.data.text.records import Record, Rejected, checked, first_few, too_large
from trainer.data.text.sources import Source
from trainer.errors import InputError

BROKEN = (OSError, ValueError, KeyError, TypeError, NotImplementedError, MemoryError)
"""What pyarrow raises where content isn't what it claims to be; all of its own exceptions are one of these."""


def line_of(error: BaseException) -> str:
    """An error of the library in a line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def pyarrow(source: Source, *parts: str) -> Any:
    """The library, or a part of it."""
    return library(".".join(("pyarrow", *parts)), f"{escape(source.address)}: {source.kind}")


def check_column(source: Source, schema: Any) -> None:
    """InputError unless there is one column of texts by the name data.text_field."""
    arrow, field = pyarrow(source), source.reading.text_field
    found = schema.get_all_field_indices(field)
    if len(found) != 1:
        problem = f"{len(found)} columns {escape(field)}" if found else f"no column {escape(field)}"
        raise InputError(
            f"{escape(source.address)}: {problem} ({first_few(schema.names)}): set data.text_field to the column that "
            "holds the text."
        )
    kind = schema.field(found[0]).type
    kind = kind.value_type if arrow.types.is_dictionary(kind) else kind
    if not any(
        is_kind(kind)
        for is_kind in (
            *(arrow.types.is_string, arrow.types.is_large_string, arrow.types.is_string_view),
            *(arrow.types.is_binary, arrow.types.is_large_binary, arrow.types.is_binary_view),
        )
    ):
        raise InputError(
            f"{escape(source.address)}: the column {escape(field)} holds {kind}, no text: set data.text_field to "
            "another."
        )


def records_of(source: Source, column: Any, first: int) -> Iterator[Record]:
    """The rows of a column, numbered from `first`. The library's errors where it doesn't hold what it claims."""
    arrow = pyarrow(source)
    values: Iterable[Any] = column
    if arrow.types.is_dictionary(column.type):
        values = _looked_up(source, column)
    else:
        values = column = _as_binary(arrow, column)
        column.validate(full=True)
    for number, value in enumerate(values, start=first):
        document = _document(value, source.reading)
        yield number, document.at("row", number) if isinstance(document, Rejected) else document


def _looked_up(source: Source, column: Any) -> Iterator[Any]:
    """The values of a column that stores equal ones once: one at a time, since together they may be of any size."""
    column.validate()
    texts = _as_binary(pyarrow(source), column.dictionary)
    texts.validate(full=True)
    bounds = pyarrow(source, "compute").min_max(column.indices).as_py()
    if bounds["min"] is not None and not 0 <= bounds["min"] <= bounds["max"] < len(texts):
        raise ValueError(f"a value of {len(texts):,} has the number {bounds['max']:,}")
    nothing = pyarrow(source).scalar(None)
    return (nothing if (place := index.as_py()) is None else texts[place] for index in column.indices)


def _as_binary(arrow: Any, column: Any) -> Any:
    """The same without the claim that it is UTF-8, so that one bad text doesn't spoil the others."""
    if arrow.types.is_string(column.type):
        return column.view(arrow.binary())
    if arrow.types.is_large_string(column.type):
        return column.view(arrow.large_binary())
    if arrow.types.is_string_view(column.type):
        return column.cast(arrow.binary_view())
    return column


def counted_domains(records: Iterator[Record], batch: Any, account: Account) -> Iterator[Record]:
    """The rows of a batch; counts the domains of those with an address, where the batch has a column of them."""
    if URL_FIELD not in batch.schema.names:
        yield from records
        return
    for record, address in zip(records, batch.column(URL_FIELD), strict=False):
        if isinstance(record[1], bytes):
            account.note_address(address.as_py())
        yield record


def _document(value: Any, reading: Reading) -> bytes | Rejected:
    content = value.as_buffer() if hasattr(value, "as_buffer") else value.as_py()
    if content is None:
        return Rejected(NO_TEXT_FIELD, "has a null there")
    if len(content) > reading.most_bytes:
        return too_large(len(content), reading.most_bytes)
    return checked(bytes(content))

"""A file of records → examples: JSON lines or a JSON array, packed or not; or a table, by its columns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from trainer.data.examples import columns
from trainer.data.examples.faults import NO_TARGET, ExampleFault
from trainer.data.examples.formats import READERS, to_bytes
from trainer.data.text.file_names import escape
from trainer.data.text.filters import BAD_JSON, TOO_LARGE, UNDECODABLE
from trainer.data.text.formats import kind_by_name, unreadable
from trainer.data.text.packed import beginning, lines
from trainer.data.text.records import Rejected, too_large, without_mark
from trainer.data.text.sources import Source, content_of
from trainer.errors import InputError

REFUSE = "refuse"
MEND = "mend the record, or set data.bad_records=reject to leave such ones out"

JSON_KINDS = ("json", "jsonl", "text")  # what a name may say: a .txt may hold lines of JSON as well


@dataclass(frozen=True)
class ExampleReader:
    """What records must be: `format`, of READERS; a chat is under the source's text_field, or a usual name.

    With `refuses`, a record that isn't is refused by name; else it is counted. One without a target is counted always.
    """

    format: str
    refuses: bool

    def read(self, source: Source) -> Iterator[tuple[int, bytes | Rejected]]:
        """The records of a source with their numbers from 0, as read_documents gives texts."""
        if source.kind in columns.READERS:
            for record, row in columns.read_columns(source):
                yield record, row if isinstance(row, Rejected) else self._example(source, row, "row", record)
            return
        self._check_name(source)
        with content_of(source) as pieces:
            head, begun, _ = beginning(pieces, 2**12)
            stream = chain(begun, pieces)
            if without_mark(head).lstrip()[:1] == b"[":
                for record, element in enumerate(self._array(source, stream)):
                    yield record, self._example(source, element, "record", record)
                return
            for record, line in enumerate(lines(stream, source.reading.most_bytes)):
                if line is None or line.strip():
                    yield record, self._example(source, line, "line", record)

    def _check_name(self, source: Source) -> None:
        name = source.file_name
        kind = unreadable(name) or (kind_by_name(name) or ("json", ""))[0]
        if kind not in JSON_KINDS:
            raise InputError(
                f"{escape(source.address)}: is {kind} by its name, and data.format={self.format} is read from JSON or "
                "tables: write one record to a line of a .jsonl, or leave the file out of data.input."
            )

    def _array(self, source: Source, stream: Iterable[bytes]) -> list[Any]:
        held, size, most = [], 0, source.reading.most_bytes
        for piece in stream:
            held.append(piece)
            size += len(piece)
            if size > most:
                raise InputError(
                    f"{escape(source.address)}: a JSON array of more than data.most_document_bytes={most}: write one "
                    "record to a line instead, or raise that."
                )
        try:
            found = json.loads(without_mark(b"".join(held)))
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{escape(source.address)}: not JSON ({str(error)[:100]}); fetch or write it again."
            ) from error
        return found if isinstance(found, list) else [found]

    def _example(self, source: Source, content: Any, what: str, number: int) -> bytes | Rejected:
        if content is None:
            return Rejected(TOO_LARGE, f"data.most_document_bytes={source.reading.most_bytes} or more").at(what, number)
        if isinstance(content, bytes):
            try:
                content = json.loads(without_mark(content).decode("utf-8"))
            except UnicodeDecodeError:
                return Rejected(UNDECODABLE, "not UTF-8").at(what, number)
            except (ValueError, RecursionError):
                return Rejected(BAD_JSON, "is not JSON").at(what, number)
        if not isinstance(content, dict):
            return Rejected(BAD_JSON, "is no JSON object").at(what, number)
        try:
            example = to_bytes(READERS[self.format](content, source.reading.text_field))
            most = source.reading.most_bytes
            return example if len(example) <= most else too_large(len(example), most).at(what, number)
        except ExampleFault as fault:
            if self.refuses and fault.reason != NO_TARGET:
                raise InputError(f"{escape(source.address)}, {what} {number + 1}: {fault}; {MEND}.") from fault
            return Rejected(fault.reason, str(fault)).at(what, number)

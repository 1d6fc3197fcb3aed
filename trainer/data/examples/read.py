"""A file of records → examples: JSON lines or a JSON array, packed or not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from trainer.data.examples.faults import NO_TARGET, ExampleFault
from trainer.data.examples.formats import READERS, to_bytes
from trainer.data.text.file_names import escape
from trainer.data.text.filters import BAD_JSON, TOO_LARGE, UNDECODABLE
from trainer.data.text.formats import kind_by_name, unreadable
from trainer.data.text.packed import beginning, lines
from trainer.data.text.records import Rejected, without_mark
from trainer.data.text.sources import Source, content_of
from trainer.errors import InputError

REFUSE = "refuse"
MEND = "mend the record, or set data.bad_records=reject to leave such ones out"
JSON_KINDS = ("json", "jsonl", "text")
"""What the name of a file of examples may say that it holds: a .txt may hold lines of JSON as well."""


@dataclass(frozen=True)
class ExampleReader:
    """What the records of a file must be: `format`, of READERS; chats are under data.text_field or a usual name.

    With `refuses`, a record that isn't is refused by name; else it is counted. One without a target is counted always.
    """

    format: str
    refuses: bool

    def read(self, source: Source) -> Iterator[tuple[int, bytes | Rejected]]:
        """The records of a source with their numbers from 0, as read_documents gives texts."""
        self._check_name(source)
        with content_of(source) as content:
            for record, place, found in self._records(source, content):
                yield record, self._example(source, found, place)

    def _check_name(self, source: Source) -> None:
        name = source.file_name
        kind = unreadable(name) or (kind_by_name(name) or ("json", ""))[0]
        if kind not in JSON_KINDS:
            raise InputError(
                f"{escape(source.address)}: is {kind} by its name, and data.format={self.format} is read from JSON: "
                "write one record to a line of a .jsonl, or leave the file out of data.input."
            )

    def _records(
        self, source: Source, content: Iterator[bytes]
    ) -> Iterator[tuple[int, str, bytes | dict[str, Any] | None]]:
        """Number, place in words and content of each record: a line, or an array's element."""
        head, begun, _ = beginning(content, 2**12)
        stream = self._chain(begun, content)
        if without_mark(head).lstrip()[:1] == b"[":
            for record, element in enumerate(self._array(source, stream)):
                yield record, f"record {record + 1}", element
            return
        for record, line in enumerate(lines(stream, source.reading.most_bytes)):
            if line is None or line.strip():
                yield record, f"line {record + 1}", line

    @staticmethod
    def _chain(begun: list[bytes], content: Iterator[bytes]) -> Iterator[bytes]:
        yield from begun
        yield from content

    def _array(self, source: Source, stream: Iterator[bytes]) -> list[Any]:
        held, size, most_bytes = [], 0, source.reading.most_bytes
        for piece in stream:
            held.append(piece)
            size += len(piece)
            if size > most_bytes:
                raise InputError(
                    f"{escape(source.address)}: a JSON array of more than data.most_document_bytes={most_bytes}: "
                    "write one record to a line instead, or raise that."
                )
        try:
            found = json.loads(without_mark(b"".join(held)))
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{escape(source.address)}: not JSON ({str(error)[:100]}); fetch or write it again."
            ) from error
        return found if isinstance(found, list) else [found]

    def _example(self, source: Source, content: Any, place: str) -> bytes | Rejected:
        if content is None:
            return Rejected(TOO_LARGE, f"data.most_document_bytes={source.reading.most_bytes} or more").at(place)
        if isinstance(content, bytes):
            try:
                content = json.loads(without_mark(content).decode("utf-8"))
            except UnicodeDecodeError:
                return Rejected(UNDECODABLE, "not UTF-8").at(place)
            except (ValueError, RecursionError):
                return Rejected(BAD_JSON, "is not JSON").at(place)
        if not isinstance(content, dict):
            return Rejected(BAD_JSON, "is no JSON object").at(place)
        try:
            return to_bytes(READERS[self.format](content, source.reading.text_field))
        except ExampleFault as fault:
            if self.refuses and fault.reason != NO_TARGET:
                raise InputError(f"{escape(source.address)}, {place}: {fault}; {MEND}.") from fault
            return Rejected(fault.reason, str(fault)).at(place)

"""A file of records → examples: JSON lines or a JSON array, packed or not; or a table, by its columns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from itertools import chain
from typing import Any

import numpy as np

from trainer.config.modalities import Modality
from trainer.data.examples import columns
from trainer.data.examples.faults import BAD_CODES, NO_TARGET, UNKNOWN_LABEL, ExampleFault
from trainer.data.examples.formats import LABELLED, READERS, TAGGED, to_bytes
from trainer.data.examples.labelled import JSON_BEGINS, sentences, unknown_label
from trainer.data.examples.segments import SEGMENTS, array_record, segments_of
from trainer.data.text.file_names import escape
from trainer.data.text.filters import BAD_JSON, TOO_LARGE, UNDECODABLE
from trainer.data.text.formats import kind_by_name, unreadable
from trainer.data.text.packed import beginning, lines
from trainer.data.text.records import Rejected, too_large, without_mark
from trainer.data.text.sources import Source, content_of
from trainer.data.tokens.npy import read_header
from trainer.errors import InputError
from trainer.machine.json_file import Malformed

REFUSE = "refuse"
MEND = "mend the record, or set data.bad_records=reject to leave such ones out"

JSON_KINDS = ("json", "jsonl", "text")  # what a name may say: a .txt may hold lines of JSON as well


@dataclass(frozen=True)
class ExampleReader:
    """What records must be: `format`, of READERS or segments of `modalities`.

    A chat is under the source's text_field, or a usual name.

    With `refuses`, a record that isn't is refused by name; else it is counted. One without a target is counted always.
    Labels must be among `labels`, where these are given.
    """

    format: str
    refuses: bool
    labels: tuple[str, ...] = ()
    modalities: Mapping[str, Modality] = field(default_factory=dict)

    @property
    def collects_labels(self) -> bool:
        """Whether the labels are those that occur."""
        return self.format in (LABELLED, TAGGED) and not self.labels

    def read(self, source: Source) -> Iterator[tuple[int, bytes | Rejected]]:
        """The records of a source with their numbers from 0, as read_documents gives texts."""
        if source.kind in columns.READERS and not (self.format == TAGGED and source.kind == "tsv"):  # CoNLL's columns
            for record, row in columns.read_columns(source):
                yield record, row if isinstance(row, Rejected) else self._example(source, row, "row", record)
            return
        if source.kind == "npy":
            yield 0, self._example(source, self._of_array(source), "record", 0)
            return
        self._check_name(source)
        with content_of(source) as pieces:
            head, begun, _ = beginning(pieces, 2**12)
            stream = chain(begun, pieces)
            if self.format == TAGGED and not JSON_BEGINS.match(without_mark(head)):
                for record, sentence in enumerate(sentences(lines(stream, source.reading.most_bytes))):
                    yield record, self._example(source, sentence, "sentence", record)
                return
            if without_mark(head).lstrip()[:1] == b"[":
                for record, element in enumerate(self._array(source, stream)):
                    yield record, self._example(source, element, "record", record)
                return
            for record, line in enumerate(lines(stream, source.reading.most_bytes)):
                if line is None or line.strip():
                    yield record, self._example(source, line, "line", record)

    def _of_array(self, source: Source) -> Any:
        """The record that an .npy file is. Nothing is unpickled, and no more is read than a document may have."""
        most, held, size = source.reading.most_bytes, [], 0
        with content_of(source) as pieces:
            for piece in pieces:
                held.append(piece)
                size += len(piece)
                if size > most:
                    return None
        content = b"".join(held)
        try:
            kind, shape = read_header(file := BytesIO(content), len(content))
        except Malformed as error:
            return ExampleFault(BAD_CODES, str(error))
        return array_record(np.frombuffer(content, kind, offset=file.tell()).reshape(shape), self.modalities)

    def _fields(self, content: Mapping[str, Any], text_field: str) -> dict[str, Any]:
        """What a record holds, in one way of writing."""
        if self.format == SEGMENTS:
            return segments_of(content, text_field, self.modalities)
        return READERS[self.format](content, text_field)

    def _check_name(self, source: Source) -> None:
        name = source.file_name
        kind = unreadable(name) or (kind_by_name(name) or ("json", ""))[0]
        if kind not in (*JSON_KINDS, *(("tsv",) if self.format == TAGGED else ())):
            raise InputError(
                f"{escape(source.address)}: is {kind} by its name, and data.format={self.format} is read from JSON or "
                "tables: write one record to a line of a .jsonl, or leave the file out of data.input."
            )

    def _check_labels(self, example: Mapping[str, Any]) -> None:
        unknown = unknown_label(example, self.labels) if self.labels else None
        if unknown is not None:
            listed = ", ".join(self.labels)[:200]
            raise ExampleFault(UNKNOWN_LABEL, f"the label {unknown[:40]!r} isn't in data.labels ({listed})")

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
        if not isinstance(content, dict | ExampleFault):
            return Rejected(BAD_JSON, "is no JSON object").at(what, number)
        try:
            if isinstance(content, ExampleFault):
                raise content
            fields = self._fields(content, source.reading.text_field)
            self._check_labels(fields)
            example, most = to_bytes(fields), source.reading.most_bytes
            return example if len(example) <= most else too_large(len(example), most).at(what, number)
        except ExampleFault as fault:
            if self.refuses and fault.reason != NO_TARGET:
                raise InputError(f"{escape(source.address)}, {what} {number + 1}: {fault}; {MEND}.") from fault
            return Rejected(fault.reason, str(fault)).at(what, number)

"""Reads a file of annotated data, JSON lines or a table: its annotations, and all that isn't as the schema says."""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from trainer.data.labels.schema import (
    Annotation,
    Schema,
    WrongField,
    annotations_of,
    find_kind,
    quoted,
)
from trainer.errors import InputError
from trainer.machine.json_file import Malformed, open_regular, parse_json

MOST_LINE = 2**24  # bytes of a record
MOST_PROBLEMS = 1000  # that are kept
TABLES = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Problem:
    """A field of a record that isn't as the schema says; lines count from 1."""

    line: int
    field: str
    what: str

    def __str__(self) -> str:
        name = f", field {self.field}" if self.field else ""
        return f"line {self.line:,}{name}: {self.what}"


@dataclass
class LabelFile:
    """What a file holds: annotations in its order, with the line of each."""

    path: Path
    schema: Schema
    records: int = 0
    annotations: list[Annotation] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    wrong: int = 0  # problems, those that aren't kept included
    repeated: int = 0  # records that say the same as an earlier one, without id and annotator

    @property
    def annotators(self) -> list[str]:
        """The annotators' names, sorted; empty where none is named."""
        return sorted({each.annotator for each in self.annotations if each.annotator is not None})

    @property
    def label_counts(self) -> Counter[str]:
        """How often each label was given."""
        return Counter(label for each in self.annotations for label in each.labels)

    def add_problem(self, line: int, name: str, what: str) -> None:
        """Notes what is wrong with a record."""
        self.wrong += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(Problem(line, name, what))


def read_labels(path: Path, kind: str | None, names: dict[str, str], schema_of: Callable[[str], Schema]) -> LabelFile:
    """All annotations of a file; without a `kind` the first record's fields tell it. InputError if it can't be read.

    Items are told apart by id, or where there is none by content; an id stands for one content, and an annotator says
    one thing of it.
    """
    found = LabelFile(path, schema_of(kind)) if kind else None
    firsts: dict[str, tuple[int, str]] = {}
    said: dict[tuple[str, str | None], tuple[int, tuple[str, ...]]] = {}
    try:
        for line, record in _records(path):
            if found is None:
                found = LabelFile(path, schema_of(_kind_of(path, record, names)))
            found.records += 1
            try:
                if isinstance(record, Malformed):
                    raise WrongField("", str(record))
                annotations = list(annotations_of(record, found.schema))
            except WrongField as wrong:
                found.add_problem(line, wrong.name, str(wrong))
                continue
            for annotation in annotations:
                _add(found, line, annotation, firsts, said)
    except (OSError, EOFError, zstandard.ZstdError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: can't be read ({getattr(error, 'strerror', None) or error}).") from error
    if found is None or not found.records:
        raise InputError(f"{path}: it holds no record; one JSON object to a line is wanted, or a table with names.")
    return found


def _add(
    found: LabelFile,
    line: int,
    annotation: Annotation,
    firsts: dict[str, tuple[int, str]],
    said: dict[tuple[str, str | None], tuple[int, tuple[str, ...]]],
) -> None:
    """Takes an annotation up, unless it contradicts one before it."""
    first, content = firsts.setdefault(annotation.item, (line, annotation.content))
    who = (annotation.item, annotation.annotator)
    before, labels = said.setdefault(who, (line, annotation.labels))
    has_id = annotation.item != annotation.content
    if content != annotation.content:
        found.add_problem(line, found.schema.name("id"), f"the id of line {first:,}, which holds something else")
    elif before != line and (has_id or annotation.annotator is not None):
        by = "" if annotation.annotator is None else f" by {quoted(annotation.annotator)}"
        name = found.schema.name("annotator" if by else "id")
        found.add_problem(line, name, f"a second annotation{by} of what line {before:,} is about")
    elif before != line and labels != annotation.labels:
        name = found.schema.name("tags" if found.schema.kind == "tags" else "label")
        found.add_problem(line, name, f"another one than line {before:,} has for the same content")
    elif before != line:
        found.repeated += 1
    else:
        found.annotations.append(annotation)
        found.lines.append(line)


def _kind_of(path: Path, record: dict[str, Any] | Malformed, names: dict[str, str]) -> str:
    if isinstance(record, Malformed):
        raise InputError(f"{path}, line 1: {record}; one JSON object to a line is wanted, or a .csv with names.")
    kind = find_kind(record, names)
    if kind is None:
        fields = ", ".join(quoted(name) for name in list(record)[:8])
        raise InputError(
            f"{path}: its first record has the fields {fields or 'of an empty object'}, which no kind of labels has; "
            "say kind=… and which field is which, as in text=review label=stars."
        )
    return kind


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any] | Malformed]]:
    """The records with the number of the line that each begins in, from 1; Malformed in place of broken ones."""
    with _unpacked(path) as file:
        suffixes = [suffix for suffix in path.suffixes if suffix not in (".gz", ".zst")]
        separator = TABLES.get(suffixes[-1] if suffixes else "")
        yield from _table_rows(file, separator) if separator else _json_lines(file, path)


@contextmanager
def _unpacked(path: Path) -> Iterator[BinaryIO]:
    try:
        packed = open_regular(path)
    except Malformed as error:
        raise InputError(f"{path}: {error}.") from error
    with packed:
        if path.suffix == ".gz":
            with gzip.open(packed) as file:
                yield file  # type: ignore[misc]
        elif path.suffix == ".zst":
            with zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as stream:
                yield io.BufferedReader(stream)
        else:
            yield packed


def _json_lines(file: BinaryIO, path: Path) -> Iterator[tuple[int, dict[str, Any] | Malformed]]:
    number = 0
    while line := file.readline(MOST_LINE + 1):
        number += 1
        if len(line) > MOST_LINE:
            raise InputError(f"{path}, line {number:,}: longer than {MOST_LINE:,} bytes; is it JSON lines?")
        if not line.strip():
            continue
        try:
            record = parse_json(line.removeprefix(b"\xef\xbb\xbf"))
        except Malformed as error:
            yield number, error
            continue
        yield number, record if isinstance(record, dict) else Malformed(f"{quoted(record)} where an object belongs")


def _table_rows(file: BinaryIO, separator: str) -> Iterator[tuple[int, dict[str, Any] | Malformed]]:
    """The rows below the one with the names; an empty cell is a field that is missing."""
    rows = csv.reader(io.TextIOWrapper(file, "utf-8-sig", newline=""), delimiter=separator, strict=True)
    names = next(rows, [])
    line = rows.line_num + 1
    for row in rows:
        if row and len(row) != len(names):
            yield line, Malformed(f"{len(row):,} fields, the first row has {len(names):,}")
        elif row:
            yield line, {name: value for name, value in zip(names, row, strict=True) if value}
        line = rows.line_num + 1

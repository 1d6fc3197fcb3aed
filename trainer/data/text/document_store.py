"""Accepted documents between reading them and knowing their order, on disk, one item per batch of sources.

An item is `item-000000.text` (the documents' bytes, end to end) and `item-000000.npz` (one row per document and the
rejected counts). The second is written last: where it is, the item is whole and a restart skips it.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from trainer.data.text.documents import Rejected, read_documents
from trainer.data.text.sources import Source
from trainer.data.tokens.npy import read_npz
from trainer.data.tokens.training_text import whole_characters
from trainer.errors import InputError
from trainer.machine.durable import replacing
from trainer.machine.json_file import Count, Malformed, from_json, parse_json

LEAST_ITEM_BYTES = 8 * 2**20
MOST_ITEMS = 4096
SIGNED = ("source", "record", "offset", "length")
# Columns of a table on disk: kind of numbers, and how many of them a row has, if more than one
STORED: dict[str, tuple[type, int | None]] = {
    **dict.fromkeys(SIGNED, (np.int64, None)),
    "hash": (np.uint64, 2),
    **dict.fromkeys(("rejected", "first_rejected", "unused"), (np.uint8, None)),
}
READ_BYTES = 16 * 2**20  # of texts that are read together


@dataclass(frozen=True)
class WorkItem:
    """A work item: consecutive sources, the first of which has number `first_source`."""

    number: int
    first_source: int
    sources: tuple[Source, ...]

    @property
    def bytes(self) -> int:
        """Size of the source files."""
        return sum(source.bytes for source in self.sources)


@dataclass(frozen=True)
class Documents:
    """A table of stored documents: columns (documents,); `hash` (documents, 2) is xxh3-128, high word first."""

    item: np.ndarray
    source: np.ndarray
    record: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    hash: np.ndarray

    def __len__(self) -> int:
        return len(self.item)

    def take(self, rows: np.ndarray | slice) -> Documents:
        """These rows, in this order."""
        return Documents(*(getattr(self, column.name)[rows] for column in fields(self)))


@dataclass
class Rejections:
    """What holds no document: records by reason with the first place of each, and members of tars beside a text."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    unused: Counter[str] = field(default_factory=Counter)

    def add(self, reason: str, place: str, count: int = 1) -> None:
        """Counts records that were rejected for `reason`, the first at `place`."""
        self.counts[reason] += count
        self.first.setdefault(reason, place)


def work_items(sources: tuple[Source, ...]) -> list[WorkItem]:
    """Sources → work items: small files together, so that a million of them isn't a million items."""
    wanted = max(LEAST_ITEM_BYTES, sum(source.bytes for source in sources) // MOST_ITEMS)
    found: list[WorkItem] = []
    first, size = 0, 0
    for number, source in enumerate(sources):
        if size and size + source.bytes > wanted:
            found.append(WorkItem(len(found), first, sources[first:number]))
            first, size = number, 0
        size += source.bytes
    return [*found, WorkItem(len(found), first, sources[first:])]


def text_path(folder: Path, item: int) -> Path:
    """Where an item's text is."""
    return folder / f"item-{item:06d}.text"


def table_path(folder: Path, item: int) -> Path:
    """Where an item's table is; its presence says that the item is whole."""
    return folder / f"item-{item:06d}.npz"


def collect_documents(batch: WorkItem, *, folder: Path, text_field: str, most_bytes: int) -> int:
    """Stores the documents of a batch, unless they are there already; returns the bytes of its source files."""
    if table_path(folder, batch.number).exists():
        return batch.bytes
    rows: list[tuple[int, int, int, int, bytes]] = []
    rejections = Rejections()
    offset = 0
    with replacing(text_path(folder, batch.number)) as file:
        for number, source in enumerate(batch.sources, start=batch.first_source):
            for record, document in read_documents(source, text_field, most_bytes, rejections.unused):
                if isinstance(document, Rejected):
                    first = document.reason not in rejections.first
                    rejections.add(
                        document.reason, ", ".join(filter(None, (source.name, str(document)))) if first else ""
                    )
                    continue
                file.write(document)
                rows.append((number, record, offset, len(document), xxhash.xxh3_128_digest(document)))
                offset += len(document)
    _write_table(folder, batch.number, rows, rejections)
    return batch.bytes


def _write_table(folder: Path, item: int, rows: list[tuple[int, int, int, int, bytes]], rejections: Rejections) -> None:
    source, record, offset, length, hashes = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    with replacing(table_path(folder, item)) as file:
        np.savez(
            file,
            source=np.array(source, np.int64),
            record=np.array(record, np.int64),
            offset=np.array(offset, np.int64),
            length=np.array(length, np.int64),
            hash=np.frombuffer(b"".join(hashes), ">u8").reshape(-1, 2).astype(np.uint64),
            rejected=_as_json(rejections.counts),
            first_rejected=_as_json(rejections.first),
            unused=_as_json(rejections.unused),
        )


def _as_json(content: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(json.dumps(content).encode(), np.uint8)


def load(folder: Path, items: int) -> tuple[Documents, Rejections]:
    """The table of all stored documents, by source and record, and what was rejected."""
    tables = []
    rejections = Rejections()
    for item in range(items):
        try:
            stored = read_npz(table_path(folder, item), STORED)
            counts, unused = (_read_object(stored.pop(name), Count) for name in ("rejected", "unused"))
            first = _read_object(stored.pop("first_rejected"), str)
            _check_columns(stored, text_path(folder, item))
            if first.keys() != counts.keys():
                raise Malformed("its rejected documents don't fit each other")
        except Malformed as error:
            raise InputError(
                f"{table_path(folder, item)}: can't be read ({error}); remove {folder}, and start the same command "
                "again."
            ) from error
        tables.append(Documents(item=np.full(len(stored["source"]), item, np.int64), **stored))
        for reason, count in counts.items():
            rejections.add(reason, first[reason], count)
        rejections.unused.update(unused)
    joined = (np.concatenate([getattr(table, column.name) for table in tables]) for column in fields(Documents))
    return Documents(*joined), rejections


def _read_object(content: np.ndarray, kind: Any) -> dict[str, Any]:
    """_as_json's inverse; Malformed unless all values are of a `kind`."""
    found: dict[str, Any] = from_json(dict[str, kind], parse_json(content.tobytes()))
    return found


def _check_columns(columns: dict[str, np.ndarray], text: Path) -> None:
    """Malformed unless a table's columns fit each other and its text, which holds the documents end to end."""
    lengths = columns["length"]
    if len({len(column) for column in columns.values()}) != 1 or any((columns[name] < 0).any() for name in SIGNED):
        raise Malformed("its columns don't fit each other")
    whole = text.is_file() and int(lengths.sum()) == text.stat().st_size
    if not whole or not np.array_equal(columns["offset"], np.cumsum(lengths) - lengths):
        raise Malformed(f"{text.name} holds other documents")


def read_texts(folder: Path, documents: Documents) -> Iterator[list[bytes]]:
    """The texts of `documents`, in their order, each in a list of its own: whoever pops it holds it alone.

    They are read by groups of `READ_BYTES`, or one document, and the files of a group front to back.
    """
    groups = np.cumsum(documents.length) // READ_BYTES
    starts = np.flatnonzero(np.diff(groups, prepend=-1)).tolist()
    for first, stop in itertools.pairwise([*starts, len(documents)]):
        texts = _read_group(folder, documents.take(slice(first, stop)))
        while texts:
            yield [texts.popleft()]


def _read_group(folder: Path, documents: Documents) -> deque[bytes]:
    """The texts of `documents`, in their order; the files are read front to back."""
    texts: list[bytes] = [b""] * len(documents)
    order = np.lexsort((documents.offset, documents.item))
    for item, rows in itertools.groupby(order.tolist(), key=lambda row: int(documents.item[row])):
        with open(text_path(folder, item), "rb") as file:
            for row in rows:
                file.seek(int(documents.offset[row]))
                texts[row] = file.read(int(documents.length[row]))
    return deque(texts)


def sample_texts(folder: Path, documents: Documents, most_bytes: int) -> Iterator[bytes]:
    """The first texts of `documents` that fit in `most_bytes` together.

    Where these are less than half of that, as much of the next text as fits comes after them.
    """
    ends = np.cumsum(documents.length)
    whole = int(np.searchsorted(ends, most_bytes, side="right"))
    for (text,) in read_texts(folder, documents.take(slice(0, whole))):
        yield text
    room = most_bytes - (int(ends[whole - 1]) if whole else 0)
    if 2 * room > most_bytes and whole < len(documents):
        item, offset = int(documents.item[whole]), int(documents.offset[whole])
        with open(text_path(folder, item), "rb") as file:
            file.seek(offset)
            yield whole_characters(file.read(room))

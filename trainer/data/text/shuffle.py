"""The second stage of prepare: stored documents → parts in their final order, without duplicates.

Shuffled: a work item is a bucket, whose documents are gathered from the files of all items that were read, ordered, and
written as a part. In source order: buckets say which documents are duplicates (`dropped-000007`), and then each item
that was read becomes a part, whose texts stay where they are.

Which one of equal documents stays is decided by the order of the sources alone: rows come item by item, and sorting
them by place keeps the order of equal ones.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from trainer.data.text.document_store import (
    GATHERED_BYTES,
    ROW,
    ROW_COST,
    DocumentStore,
    Duplicates,
    hashes_of,
    read_pieces,
    read_texts,
)
from trainer.data.text.filters import first_occurrences
from trainer.data.text.near_dropped import is_dropped, read_near_members
from trainer.data.text.parts import OrderedPart, Splits, note_path, read_note, texts_path, write_note, write_rows
from trainer.data.text.workers import Work
from trainer.machine.durable import replacing, storage_errors, write_json
from trainer.machine.json_file import Count, Malformed, from_json, open_regular, read_json
from trainer.machine.sealing.plaintext import sealing

FEW_RUNS = 4
DROPPED = np.dtype([("item", "<i8"), ("offset", "<i8")])


@dataclass(frozen=True)
class Stored:
    """All that was read: the store, and for each work item how many records its file has before it."""

    store: DocumentStore
    records_before: tuple[int, ...]

    @property
    def items(self) -> range:
        """Numbers of the work items."""
        return range(len(self.records_before))

    def bucket(self, bucket: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of a bucket, in order; the item that each is of; and whether it stays. (rows,) each."""
        found, items = [np.empty(0, ROW)], [np.empty(0, np.int64)]
        for item in self.items:
            for rows in read_pieces(self.store, item, bucket):
                rows["record"] += self.records_before[item]
                found.append(rows)
                items.append(np.full(len(rows), item, np.int64))
        joined = np.concatenate(found)
        found.clear()
        order = np.argsort(joined["place"], kind="stable")
        joined = joined[order]
        kept = first_occurrences(hashes_of(joined)) if self.store.deduplicate else np.ones(len(joined), bool)
        return joined, np.concatenate(items)[order], kept


@dataclass(frozen=True)
class ShuffleBucket(Work[int, OrderedPart]):
    """Makes a part of a bucket."""

    stored: Stored
    splits: Splits

    def note(self, item: int) -> Path:
        """What the part adds up to."""
        return note_path(self.stored.store.folder, item)

    def __call__(self, item: int) -> OrderedPart:
        """Writes its rows, and its texts unless they are in order already."""
        store = self.stored.store
        part = read_note(store, item, self.splits)
        if part is not None:
            return part
        rows, items, kept = self.stored.bucket(item)
        duplicates = Duplicates()
        duplicates.add(rows[~kept])
        kept &= ~is_dropped(rows, read_near_members(store.folder, item))
        rows, items = rows[kept], items[kept]
        shares, written = {}, 0
        with replacing(texts_path(store, item)) as file:
            for split, mask in self.splits.masks(rows).items():
                chosen = rows[mask]
                for text in _gather(store, item, chosen, items[mask]):
                    file.write(text.pop())
                chosen["offset"] = written + np.cumsum(chosen["length"]) - chosen["length"]
                written += int(chosen["length"].sum())
                shares[split] = write_rows(store, item, split, chosen, self.splits.shard_bytes)
        return write_note(store, item, OrderedPart(shares, duplicates.count, duplicates.first))


def _gather(store: DocumentStore, bucket: int, rows: np.ndarray, items: np.ndarray) -> Iterator[list[bytes]]:
    """The texts of a bucket's rows in order, each in a list of its own.

    What fits in memory, or FEW_RUNS times that, is read a piece from each file, in as many rounds. More than that is
    first copied, as it lies, by runs that fit and are each in order: so a round is a piece of each run.
    """
    path_of = store.text_path_of(bucket)
    runs = list(_runs(rows, items))
    if len(runs) <= FEW_RUNS:
        yield from read_texts(rows, items, path_of, store, GATHERED_BYTES)
        return
    scratch = texts_path(store, bucket).with_suffix(f".{platform.node()[:64]}-{os.getpid()}.tmp")
    copied = rows.copy()
    scratch.unlink(missing_ok=True)
    try:
        with storage_errors(scratch), open(scratch, "xb") as stored, sealing(stored, scratch) as file:
            for run in runs:
                lengths = rows["length"][run]
                copied["offset"][run] = file.tell() + np.cumsum(lengths) - lengths
                for text in read_texts(rows[run], items[run], path_of, store, 2 * GATHERED_BYTES):
                    file.write(text.pop())
        yield from read_texts(copied, np.zeros(len(rows), np.int64), lambda _: scratch, store, GATHERED_BYTES)
    finally:
        scratch.unlink(missing_ok=True)


def _runs(rows: np.ndarray, items: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of about GATHERED_BYTES that lie together, as their numbers in order."""
    as_they_lie = np.lexsort((rows["offset"], items))
    groups = np.cumsum(rows["length"][as_they_lie] + ROW_COST) // GATHERED_BYTES
    for run in np.split(as_they_lie, np.flatnonzero(np.diff(groups)) + 1):
        yield np.sort(run)


# --------------------------------------------------------------------------------------------------- in source order


@dataclass(frozen=True)
class Dropped:
    """How many of a bucket's documents are duplicates, and (source, record) of the first."""

    count: Count
    first: tuple[Count, ...] | None


@dataclass(frozen=True)
class FindDuplicates(Work[int, Dropped]):
    """Writes which documents of a bucket are duplicates, by item and offset."""

    stored: Stored

    def note(self, item: int) -> Path:
        """How many there are."""
        return self.stored.store.folder / f"dropped-{item:06d}.json"

    def __call__(self, item: int) -> Dropped:
        """Looks at the rows alone."""
        store, note = self.stored.store, self.note(item)
        try:
            dropped = from_json(Dropped, read_json(note))
            if dropped.first is not None and len(dropped.first) != 2:
                raise Malformed("its first place doesn't fit")
            return dropped
        except FileNotFoundError:
            pass
        except Malformed as error:
            raise store.unreadable(note, error) from error
        rows, items, kept = self.stored.bucket(item)
        duplicates = Duplicates()
        duplicates.add(rows[~kept])
        table = np.empty(duplicates.count, DROPPED)
        table["item"], table["offset"] = items[~kept], rows["offset"][~kept]
        table = table[np.lexsort((table["offset"], table["item"]))]
        with replacing(dropped_path(store, item)) as file:
            file.write(table.tobytes())
        dropped = Dropped(duplicates.count, duplicates.first)
        write_json(note, asdict(dropped))
        return dropped


def dropped_path(store: DocumentStore, bucket: int) -> Path:
    """Which documents of a bucket are duplicates: DROPPED, sorted."""
    return store.folder / f"dropped-{bucket:06d}.table"


@dataclass(frozen=True)
class KeepOrder(Work[int, OrderedPart]):
    """Makes a part of a work item that was read: `dropped` says how many duplicates each bucket has."""

    stored: Stored
    splits: Splits
    dropped: tuple[int, ...]

    def note(self, item: int) -> Path:
        """What the part adds up to."""
        return note_path(self.stored.store.folder, item)

    def __call__(self, item: int) -> OrderedPart:
        """Writes its rows, and its texts unless they are in order already."""
        store = self.stored.store
        part = read_note(store, item, self.splits)
        if part is not None:
            return part
        pieces = [np.empty(0, ROW)]
        for bucket in range(store.buckets.count):
            members = read_near_members(store.folder, bucket)
            pieces += (piece[~is_dropped(piece, members)] for piece in read_pieces(store, item, bucket))
        rows = np.concatenate(pieces)
        rows = rows[np.argsort(rows["offset"], kind="stable")]
        rows["record"] += self.stored.records_before[item]
        rows = rows[~np.isin(rows["offset"], np.concatenate([np.empty(0, np.int64), *self._dropped_of(item)]))]
        masks = self.splits.masks(rows)
        shares = {
            split: write_rows(store, item, split, rows[mask], self.splits.shard_bytes) for split, mask in masks.items()
        }
        return write_note(store, item, OrderedPart(shares))

    def _dropped_of(self, item: int) -> Iterator[np.ndarray]:
        """Offsets of an item's documents that are dropped."""
        store = self.stored.store
        for bucket, count in enumerate(self.dropped):
            path = dropped_path(store, bucket)
            if not count:
                continue
            try:
                with open_regular(path) as file:
                    table = np.frombuffer(file.read(count * DROPPED.itemsize + 1), DROPPED)
            except (OSError, ValueError) as error:
                raise store.unreadable(path, getattr(error, "strerror", None) or "cut short") from error
            first, last = np.searchsorted(table["item"], [item, item + 1])
            yield table["offset"][first:last]


# -------------------------------------------------------------------------------------------------------- the sample


def training_texts(stored: Stored, splits: Splits) -> Iterator[bytes]:
    """The training documents of a prepare in source order, in the order that a shuffle would give them."""
    store = stored.store
    for bucket in range(store.buckets.count):
        rows, items, kept = stored.bucket(bucket)
        kept &= splits.masks(rows)["train"] & ~is_dropped(rows, read_near_members(store.folder, bucket))
        for text in read_texts(rows[kept], items[kept], store.text_path, store):
            yield text.pop()

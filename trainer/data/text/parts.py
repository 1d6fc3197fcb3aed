"""Documents in their final order, in parts: of each split the rows, and a file of texts that the rows point into.

A part is a bucket of the shuffle or, without one, a work item. `part-000007-train.rows` has the rows (ROW; `place` is
the first byte of a document in its split of the part) and then xxh3-64 of each BLOCK_ROWS of them; `part-000007.json`,
written last, says what they add up to.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash

from trainer.data.text.document_store import ROW, DocumentStore, hashes_of, read_texts
from trainer.data.text.split import held_out
from trainer.machine.durable import replacing, write_json
from trainer.machine.json_file import Count, Malformed, from_json, open_regular, read_json
from trainer.machine.sealing.plaintext import size_of

BLOCK_ROWS = 2**12  # that are read together, and have a hash


@dataclass(frozen=True)
class Splits:
    """Shares of documents that are held out, and the size of shards."""

    validation: float
    test: float
    shard_bytes: int

    @property
    def names(self) -> list[str]:
        """The splits that there are, train first."""
        held = [("validation", self.validation), ("test", self.test)]
        return ["train", *(name for name, fraction in held if fraction)]

    def masks(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Which rows are in which split: (rows,) bool each."""
        hashes = hashes_of(rows)
        validation = held_out(hashes, self.validation)
        test = held_out(hashes, self.validation + self.test) & ~validation
        masks = {"train": ~validation & ~test, "validation": validation, "test": test}
        return {name: masks[name] for name in self.names}


@dataclass(frozen=True)
class PartOfSplit:
    """What a part holds of a split. `long` are its documents of more than half a shard: (first byte, bytes)."""

    documents: Count
    bytes: Count
    long: tuple[tuple[Count, ...], ...]


@dataclass(frozen=True)
class OrderedPart:
    """A part, by split, and the duplicates that were dropped for it, of which the first is (source, record)."""

    splits: dict[str, PartOfSplit]
    duplicates: Count = 0
    first_duplicate: tuple[Count, ...] | None = None

    @property
    def bytes(self) -> int:
        """Of text, in all splits."""
        return sum(split.bytes for split in self.splits.values())


def note_path(folder: Path, part: int) -> Path:
    """Where a part is summed up."""
    return folder / f"part-{part:06d}.json"


def rows_path(folder: Path, part: int, split: str) -> Path:
    """Where the rows of a part's split are."""
    return folder / f"part-{part:06d}-{split}.rows"


def texts_path(store: DocumentStore, part: int) -> Path:
    """Where a part's texts are."""
    return store.folder / f"part-{part:06d}.text" if store.shuffled else store.text_path(part)


def write_rows(store: DocumentStore, part: int, split: str, rows: np.ndarray, shard_bytes: int) -> PartOfSplit:
    """Writes the rows of a split, in order, whose `offset`s are in the texts; their `place`s are changed."""
    lengths = rows["length"]
    rows["place"] = np.cumsum(lengths) - lengths
    content = np.ascontiguousarray(rows).view(np.uint8).data
    size = BLOCK_ROWS * ROW.itemsize
    hashes = [xxhash.xxh3_64_intdigest(content[first : first + size]) for first in range(0, len(content), size)]
    with replacing(rows_path(store.folder, part, split)) as file:
        file.write(content)
        file.write(np.array(hashes, "<u8").tobytes())
    long = rows[lengths > shard_bytes // 2]
    pairs = zip(long["place"].tolist(), long["length"].tolist(), strict=True)
    return PartOfSplit(len(rows), int(lengths.sum()), tuple(pairs))


def write_note(store: DocumentStore, number: int, part: OrderedPart) -> OrderedPart:
    """Writes what a part adds up to; returns it."""
    write_json(note_path(store.folder, number), asdict(part))
    return part


def read_note(store: DocumentStore, number: int, splits: Splits) -> OrderedPart | None:
    """What a part adds up to, if it is finished. InputError where that can't be."""
    path = note_path(store.folder, number)
    try:
        part = from_json(OrderedPart, read_json(path))
        first, pairs = part.first_duplicate, [pair for split in part.splits.values() for pair in split.long]
        if list(part.splits) != splits.names or any(len(pair) != 2 for pair in (*pairs, first or (0, 0))):
            raise Malformed("its splits or its places don't fit")
    except FileNotFoundError:
        return None
    except Malformed as error:
        raise store.unreadable(path, error) from error
    return part


# ---------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class PartInSplit:
    """A part, the byte of the split at which it begins, and how many documents of the split it holds."""

    part: int
    first_byte: int
    documents: int


def split_in_parts(parts: Sequence[OrderedPart], split: str) -> list[PartInSplit]:
    """The parts that hold documents of a split, in order."""
    found, first_byte = [], 0
    for number, part in enumerate(parts):
        share = part.splits[split]
        if share.documents:
            found.append(PartInSplit(number, first_byte, share.documents))
        first_byte += share.bytes
    return found


def read_split_rows(
    store: DocumentStore, split: str, parts: Sequence[PartInSplit], start: int, stop: int
) -> np.ndarray:
    """Rows of the documents that begin in the bytes [start, stop) of a split, in order; `place` is in the split.

    `source`, `offset` and so on are as stored; of which part a row is follows from its place. InputError where a file
    isn't what was written.
    """
    found = [np.empty(0, ROW)]
    for part in parts:
        path = rows_path(store.folder, part.part, split)
        try:
            with open_regular(path) as file:
                found.append(_rows_between(file, part, start, stop))
        except (OSError, Malformed) as error:
            raise store.unreadable(path, getattr(error, "strerror", None) or error) from error
    return np.concatenate(found)


def _rows_between(file: BinaryIO, part: PartInSplit, start: int, stop: int) -> np.ndarray:
    """The rows that begin in the bytes [start, stop) of the split: found by halves, and checked."""
    _check_size(file, part)

    def begins_at(number: int) -> int:
        file.seek(number * ROW.itemsize)
        return part.first_byte + int(np.frombuffer(file.read(ROW.itemsize), ROW)["place"][0])

    everything = range(part.documents)
    first = bisect_left(everything, start, key=begins_at)
    last = bisect_left(everything, stop, lo=first, key=begins_at)
    before, after = max(0, first - 1), min(part.documents, last + 1)
    rows = _read_blocks(file, part, before, after)
    rows["place"] += np.uint64(part.first_byte)
    inside = (rows["place"] >= start) & (rows["place"] < stop)
    if inside.sum() != last - first or not inside[first - before : last - before].all():
        raise Malformed("its rows aren't in order")
    return rows[inside]


def _check_size(file: BinaryIO, part: PartInSplit) -> None:
    blocks = -(-part.documents // BLOCK_ROWS)
    if size_of(file) != part.documents * ROW.itemsize + 8 * blocks:
        raise Malformed("cut short, or of another prepare")


def _read_blocks(file: BinaryIO, part: PartInSplit, first: int, stop: int) -> np.ndarray:
    """The rows [first, stop) of a file. Malformed unless the blocks that they are in are as they were written."""
    blocks = range(first // BLOCK_ROWS, -(-stop // BLOCK_ROWS))
    file.seek(part.documents * ROW.itemsize + 8 * blocks.start)
    hashes = np.frombuffer(file.read(8 * len(blocks)), "<u8").tolist()
    found = []
    for block, hashed in zip(blocks, hashes, strict=True):
        begin = block * BLOCK_ROWS
        file.seek(begin * ROW.itemsize)
        content = file.read(ROW.itemsize * (min(part.documents, begin + BLOCK_ROWS) - begin))
        if xxhash.xxh3_64_intdigest(content) != hashed:
            raise Malformed("its rows are damaged")
        found.append(np.frombuffer(content, ROW))
    rows = np.concatenate(found)[first - blocks.start * BLOCK_ROWS : stop - blocks.start * BLOCK_ROWS]
    lengths = rows["length"].astype(np.uint64)
    signed = [rows[name] for name in ("source", "record", "offset", "length")]
    if any((column < 0).any() or (column > 2**53).any() for column in signed):
        raise Malformed("its rows don't fit each other")
    if not np.array_equal(rows["place"][1:], (rows["place"] + lengths)[:-1]):
        raise Malformed("its rows don't follow each other")
    return rows


def split_texts(store: DocumentStore, parts: Sequence[PartInSplit], rows: np.ndarray) -> Iterator[list[bytes]]:
    """The texts of rows as `read_split_rows` gives them, each in a list of its own."""
    numbers = np.array([part.part for part in parts], np.int64)
    if len(parts) == 1:
        files = np.full(len(rows), numbers[0])
    else:
        firsts = np.array([part.first_byte for part in parts], np.uint64)
        files = numbers[np.searchsorted(firsts, rows["place"], side="right") - 1]
    yield from read_texts(rows, files, lambda part: texts_path(store, part), store)


def part_texts(store: DocumentStore, split: str, part: PartInSplit) -> Iterator[bytes]:
    """All texts of a part's split, in order; rows are read block by block."""
    path = rows_path(store.folder, part.part, split)
    try:
        with open_regular(path) as file:
            _check_size(file, part)
            for first in range(0, part.documents, BLOCK_ROWS):
                rows = _read_blocks(file, part, first, min(part.documents, first + BLOCK_ROWS))
                for text in split_texts(store, [part], rows):
                    yield text.pop()
    except (OSError, Malformed) as error:
        raise store.unreadable(path, getattr(error, "strerror", None) or error) from error

"""Accepted documents on disk between reading them and knowing their order, by buckets of the shuffle.

Equal documents have equal hashes, so one place in the shuffle and one bucket: a bucket's documents can be shuffled and
rid of duplicates without a look at the others. A work item stores what it accepted in files of consecutive buckets:

    read-000012-03.documents = piece, piece, …, index, end
    piece = rows (ROW, sorted by place), then their texts in that order
    index = int64 (pieces, 5): bucket, offset, rows, bytes of text, hash of the rows
    end   = MAGIC, number of pieces, xxh3-64 of the index

so that a bucket is read as one piece of each file, or a few. Without a shuffle texts are in `read-000012.text`, in the
order of their sources, and the pieces are rows alone.
"""

from __future__ import annotations

import functools
import itertools
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash

from trainer.data.text.filters import first_occurrences
from trainer.data.text.split import Buckets, shuffle_place
from trainer.data.tokens.training_text import whole_characters
from trainer.errors import InputError
from trainer.machine.json_file import Malformed, open_regular
from trainer.machine.sealing.plaintext import size_of

ROW = np.dtype(
    [
        ("place", "<u8"),  # what rows are sorted by: place in the shuffle; in a part, first byte in its split
        ("high", "<u8"),  # of the text's xxh3-128
        ("low", "<u8"),
        ("source", "<i8"),
        ("record", "<i8"),
        ("offset", "<i8"),  # of the text in its file
        ("length", "<i8"),
    ]
)
_ROW = struct.Struct("<QQQqqqq")
_WORDS = struct.Struct(">QQ")
_END = struct.Struct("<8sQQ")
MAGIC = b"BNYNDOC1"
INDEX_COLUMNS = 5
INDEX_ROW = INDEX_COLUMNS * 8  # bytes

RUN_BYTES = 256 * 2**20  # of text, sorted in memory
RUN_ROWS = 2**21
READ_BYTES = 16 * 2**20  # of texts that are read together, from a few files
GATHERED_BYTES = 128 * 2**20  # of texts that are read together, from the files of all items
ROW_COST = 200  # bytes of memory for a text besides its own
SPAN_BYTES = 2**20  # of neighbouring texts that are read at once
GAP_BYTES = 2**14  # between neighbours: texts that were dropped


class Damaged(InputError):
    """Something that prepare has written isn't what it wrote."""


def hashes_of(rows: np.ndarray) -> np.ndarray:
    """(rows, 2) uint64: xxh3-128, high word first."""
    return np.column_stack((rows["high"], rows["low"]))


@dataclass(frozen=True)
class DocumentStore:
    """Where stored documents are, and how they are stored."""

    folder: Path
    buckets: Buckets
    seed: int
    deduplicate: bool
    shuffled: bool
    counts_copies: bool = False  # so that all are stored, and dropped only where they meet

    def documents_path(self, item: int, file: int) -> Path:
        """Documents of consecutive buckets that a work item accepted."""
        return self.folder / f"read-{item:06d}-{file:02d}.documents"

    def text_path(self, item: int) -> Path:
        """The texts that a work item accepted, if there is no shuffle."""
        return self.folder / f"read-{item:06d}.text"

    def holding(self, item: int, bucket: int) -> Path:
        """The file that holds a bucket's documents of a work item."""
        return self.documents_path(item, self.buckets.file_of(bucket))

    def text_path_of(self, bucket: int) -> Callable[[int], Path]:
        """Where the text of a document of a bucket is, by the work item that stored it."""
        return functools.partial(self.holding, bucket=bucket) if self.shuffled else self.text_path

    def unreadable(self, path: Path, why: object) -> Damaged:
        """The refusal of a file that isn't what was written."""
        return Damaged(f"{path}: can't be read ({why}); remove {self.folder}, and start the same command again.")


# ---------------------------------------------------------------------------------------------------------- writing


@dataclass
class Duplicates:
    """How many documents were dropped as duplicates, and (source, record) of the first of them."""

    count: int = 0
    first: tuple[int, int] | None = None

    def add(self, rows: np.ndarray) -> None:
        """Counts these."""
        self.count += len(rows)
        if len(rows):
            first = rows[np.lexsort((rows["record"], rows["source"]))[0]]
            place = int(first["source"]), int(first["record"])
            self.first = min(self.first or place, place)


class DocumentWriter:
    """Writes the documents of a work item, given in source order, into `files`, one for each file of buckets.

    With `text` the texts go there instead, in the order in which they are given. A document that came before, within
    RUN_BYTES, is dropped and counted, unless duplicates may stay or are counted later.
    """

    def __init__(self, store: DocumentStore, files: Sequence[BinaryIO], text: BinaryIO | None = None) -> None:
        self.documents = 0
        self.text_bytes = 0
        self.duplicates = Duplicates()
        self._store = store
        self._files = files
        self._text = text
        self._written = 0  # bytes of `text`
        self._index: list[list[tuple[int, ...]]] = [[] for _ in files]
        self._begin_run()

    def _begin_run(self) -> None:
        self._rows, self._texts = bytearray(), bytearray()

    def add(self, source: int, record: int, text: bytes, copy: int = 0) -> None:
        """Stores a document. Further copies of it have another place in the shuffle each."""
        digest = xxhash.xxh3_128_digest(text)
        if self._text is None:
            offset = len(self._texts)
            self._texts += text
        else:
            offset = self._written
            self._written += self._text.write(text)
        place = shuffle_place(digest, self._store.seed, copy)
        self._rows += _ROW.pack(place, *_WORDS.unpack(digest), source, record, offset, len(text))
        if len(self._texts) >= RUN_BYTES or len(self._rows) >= RUN_ROWS * ROW.itemsize:
            self._end_run()

    def close(self) -> None:
        """Writes what is left, and the indices."""
        self._end_run()
        for file, pieces in zip(self._files, self._index, strict=True):
            index = np.array(pieces, "<i8").tobytes()
            file.write(index)
            file.write(_END.pack(MAGIC, len(pieces), xxhash.xxh3_64_intdigest(index)))

    def _end_run(self) -> None:
        if not self._rows:
            return
        rows = np.frombuffer(bytes(self._rows), ROW)
        rows = rows[np.argsort(rows["place"], kind="stable")]
        if self._store.deduplicate and not self._store.counts_copies:
            kept = first_occurrences(hashes_of(rows))
            self.duplicates.add(rows[~kept])
            rows = rows[kept]
        self.documents += len(rows)
        self.text_bytes += int(rows["length"].sum())
        buckets = self._store.buckets
        edges = np.searchsorted(buckets.of(rows["place"]), np.arange(buckets.count + 1))
        for bucket in np.flatnonzero(np.diff(edges)).tolist():
            self._write_piece(bucket, rows[edges[bucket] : edges[bucket + 1]].copy())
        self._begin_run()

    def _write_piece(self, bucket: int, rows: np.ndarray) -> None:
        number = self._store.buckets.file_of(bucket)
        file, begin, size = self._files[number], self._files[number].tell(), 0
        places = zip(rows["offset"].tolist(), rows["length"].tolist(), strict=True)
        if self._text is None:
            size = int(rows["length"].sum())
            rows["offset"] = begin + rows.nbytes + np.cumsum(rows["length"]) - rows["length"]
        content = rows.tobytes()
        file.write(content)
        if self._text is None:
            texts = memoryview(self._texts)
            file.writelines(texts[offset : offset + length] for offset, length in places)
        self._index[number].append((bucket, begin, len(rows), size, _hash(content)))


def _hash(content: bytes) -> int:
    """xxh3-64 without its last bit, so that it fits int64."""
    return xxhash.xxh3_64_intdigest(content) >> 1


# ---------------------------------------------------------------------------------------------------------- reading


def read_pieces(store: DocumentStore, item: int, bucket: int) -> Iterator[np.ndarray]:
    """The rows of a bucket in a work item's file, piece by piece. InputError unless the file is whole and ours."""
    path = store.holding(item, bucket)
    try:
        with open_regular(path) as file:
            size = size_of(file)
            for _, offset, count, text_bytes, hashed in _read_index(file, size, bucket):
                file.seek(offset)
                content = file.read(count * ROW.itemsize)
                if _hash(content) != hashed:
                    raise Malformed("its rows are damaged")
                rows = np.frombuffer(content, ROW).copy()
                _check_rows(rows, store, bucket, offset + rows.nbytes if text_bytes else None, text_bytes)
                yield rows
    except (OSError, ValueError) as error:
        raise store.unreadable(path, getattr(error, "strerror", None) or error) from error


def _read_index(file: BinaryIO, size: int, bucket: int) -> list[tuple[int, ...]]:
    """The index' rows of a bucket. Malformed unless it is whole and all pieces lie in the file."""
    if size < _END.size:
        raise Malformed("cut short")
    file.seek(size - _END.size)
    magic, count, hashed = _END.unpack(file.read(_END.size))
    begin = size - _END.size - count * INDEX_ROW
    if magic != MAGIC or begin < 0:
        raise Malformed("cut short, or not stored documents")
    file.seek(begin)
    content = file.read(count * INDEX_ROW)
    if xxhash.xxh3_64_intdigest(content) != hashed:
        raise Malformed("its index is damaged")
    index = np.frombuffer(content, "<i8").reshape(-1, INDEX_COLUMNS)
    if len(index) and (index.min() < 0 or index[:, 1:4].max() > size):
        raise Malformed("its index points outside")
    ends = index[:, 1] + index[:, 2] * ROW.itemsize + index[:, 3]
    if [0, *ends.tolist()] != [*index[:, 1].tolist(), begin]:
        raise Malformed("its pieces don't follow each other")
    return [tuple(row) for row in index[index[:, 0] == bucket].tolist()]


def _check_rows(rows: np.ndarray, store: DocumentStore, bucket: int, begin: int | None, size: int) -> None:
    """Malformed unless rows are a bucket's, sorted, with their texts end to end from `begin`."""
    lengths, places = rows["length"], rows["place"]
    signed = [rows[name] for name in ("source", "record", "offset", "length")]
    if any((column < 0).any() or (column > 2**53).any() for column in signed):
        raise Malformed("its rows don't fit each other")
    if (places[1:] < places[:-1]).any() or (store.buckets.of(places) != bucket).any():
        raise Malformed("its rows are another bucket's")
    if begin is not None:
        ends = begin + np.cumsum(lengths)
        if not np.array_equal(rows["offset"], ends - lengths) or ends[-1] != begin + size:
            raise Malformed("its texts don't fit its rows")


def read_texts(
    rows: np.ndarray,
    files: np.ndarray,
    path_of: Callable[[int], Path],
    store: DocumentStore,
    group_bytes: int | None = None,
) -> Iterator[list[bytes]]:
    """The texts of `rows` in their order, each in a list of its own: whoever pops it holds it alone.

    `files` (rows,) says which file a row's text is in. Texts are read by groups of `group_bytes`, or one document, and
    the files of a group front to back. InputError where a text isn't the one that was stored.
    """
    groups = np.cumsum(rows["length"] + ROW_COST) // (group_bytes or READ_BYTES)
    starts = np.flatnonzero(np.diff(groups, prepend=-1)).tolist()
    for first, stop in itertools.pairwise([*starts, len(rows)]):
        texts = _read_group(rows[first:stop], files[first:stop], path_of, store)
        while texts:
            yield [texts.popleft()]


def _read_group(
    rows: np.ndarray, files: np.ndarray, path_of: Callable[[int], Path], store: DocumentStore
) -> deque[bytes]:
    texts: list[bytes] = [b""] * len(rows)
    hashes = hashes_of(rows).astype(">u8").tobytes()
    order = np.lexsort((rows["offset"], files))
    numbers, offsets, lengths = files[order].tolist(), rows["offset"][order].tolist(), rows["length"][order].tolist()
    spans = _spans(numbers, offsets, lengths)
    for number, of_file in itertools.groupby(spans, key=lambda span: numbers[span[0]]):
        path = path_of(number)
        try:
            with open_regular(path) as file:
                for first, stop in of_file:
                    begin = offsets[first]
                    content = memoryview(_read_at(file, begin, offsets[stop - 1] + lengths[stop - 1] - begin))
                    for place in range(first, stop):
                        row, start = int(order[place]), offsets[place] - begin
                        text = bytes(content[start : start + lengths[place]])
                        if xxhash.xxh3_128_digest(text) != hashes[16 * row : 16 * row + 16]:
                            raise Malformed("it holds another text than was stored")
                        texts[row] = text
        except (OSError, Malformed) as error:
            raise store.unreadable(path, getattr(error, "strerror", None) or error) from error
    return deque(texts)


def _spans(files: list[int], offsets: list[int], lengths: list[int]) -> Iterator[tuple[int, int]]:
    """Ranges of rows, sorted by file and offset, to read at once: SPAN_BYTES and gaps of GAP_BYTES, or one document."""
    first = 0
    for row in range(1, len(files) + 1):
        if (
            row == len(files)
            or files[row] != files[first]
            or offsets[row] - offsets[row - 1] - lengths[row - 1] > GAP_BYTES
            or offsets[row] + lengths[row] - offsets[first] > SPAN_BYTES
        ):
            yield first, row
            first = row


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    """`size` bytes; Malformed if the file has fewer, before room is made for them."""
    if offset + size > size_of(file):
        raise Malformed("cut short")
    file.seek(offset)
    return file.read(size)


def sample_texts(texts: Iterable[bytes], most_bytes: int) -> Iterator[bytes]:
    """The first texts that fit in `most_bytes` together.

    Where these are less than half of that, as much of the next text as fits comes after them.
    """
    room = most_bytes
    for text in texts:
        if len(text) > room:
            if 2 * room > most_bytes:
                yield whole_characters(text[:room])
            return
        room -= len(text)
        yield text

"""data.packing=whole: documents, each whole, laid into rows by best fit.

A document of n tokens takes n - 1 places of a row: its inputs are all tokens but the last, its targets all but the
first, so that no label crosses from one document to the next. Which documents share a row is a function of (seed,
lengths of the shard's documents, row length) alone.

data.packing=single gives each document a row of its own: what is judged or translated whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.config import Data
from trainer.data.tokens.order import derive_key, permute

WHOLE, STREAM, SINGLE = "whole", "stream", "single"
CUT, REJECT = "cut", "reject"


@dataclass(frozen=True)
class Packing:
    """How documents are laid into rows: the `seed` breaks ties, `cut` says what becomes of those longer than a row.

    With `single` each has a row of its own, and what is cut off is in none.
    """

    seed: int
    cut: bool
    single: bool = False


def row_packing(data: Data, seed: int) -> Packing | None:
    """The packing that a data section asks for; None for rows cut from the stream of all tokens."""
    if data.packing == STREAM:
        return None
    return Packing(seed, data.long_documents == CUT, data.packing == SINGLE)


@dataclass(frozen=True)
class RowTable:
    """The rows of a shard as pieces of documents.

    Piece p is the tokens [starts[p], starts[p] + places[p] + 1) of the shard; row r has the pieces [firsts[r],
    firsts[r + 1]), at most `row_length` places together. Piece p is of the shard's document documents[p]. `rejected`
    documents are longer and in no row, `shortened` ones are there without their end.
    """

    starts: np.ndarray  # (pieces,) int64
    places: np.ndarray  # (pieces,) int64
    documents: np.ndarray  # (pieces,) int64
    firsts: np.ndarray  # (rows + 1,) int64
    rejected: int
    shortened: int = 0

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.firsts) - 1

    def documents_of(self, row: int) -> np.ndarray:
        """The document of each piece of a row, by its number in the shard."""
        return self.documents[int(self.firsts[row]) : int(self.firsts[row + 1])]

    def pieces_of(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """(starts, places) of the pieces of a row."""
        pieces = slice(int(self.firsts[row]), int(self.firsts[row + 1]))
        return self.starts[pieces], self.places[pieces]


def lay_out(lengths: np.ndarray, *, row_length: int, packing: Packing) -> RowTable:
    """Rows of `row_length` places from the documents of a shard, `lengths` (documents,) in tokens."""
    if packing.single:
        return _one_by_one(lengths.astype(np.int64), row_length, cut=packing.cut)
    starts, places, documents, rejected = _pieces(lengths.astype(np.int64), row_length, cut=packing.cut)
    ties = permute(np.arange(len(places)), len(places), derive_key("packing", packing.seed)) if len(places) else places
    order = np.lexsort((ties, -places))
    row_of = np.array(best_fit(places[order].tolist(), row_length), np.int64)
    by_row = order[np.argsort(row_of, kind="stable")]
    counts = np.bincount(row_of) if len(row_of) else np.empty(0, np.int64)
    firsts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return RowTable(starts[by_row], places[by_row], documents[by_row], firsts, rejected)


def _one_by_one(lengths: np.ndarray, row_length: int, *, cut: bool) -> RowTable:
    """A row for each document that has a token besides its end."""
    starts, places = np.cumsum(lengths) - lengths, lengths - 1
    long = places > row_length
    kept = np.flatnonzero((places > 0) & (cut | ~long))
    firsts = np.arange(len(kept) + 1, dtype=np.int64)
    counts = (0, int(long.sum())) if cut else (int(long.sum()), 0)
    return RowTable(starts[kept], np.minimum(places[kept], row_length), kept, firsts, *counts)


def _pieces(lengths: np.ndarray, row_length: int, *, cut: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """First token, places and document of each piece, and how many documents are too long for a row and left out.

    A cut document overlaps by a token from piece to piece, so that each of its tokens but the first is a target once.
    """
    starts, places = np.cumsum(lengths) - lengths, lengths - 1
    long = places > row_length
    if not cut:
        kept = ~long & (places > 0)
        return starts[kept], places[kept], np.flatnonzero(kept), int(long.sum())
    count = -(-places // row_length)  # none of a document that is its end-of-text token alone
    number = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    left = np.repeat(places, count) - number * row_length
    documents = np.repeat(np.arange(len(lengths)), count)
    return np.repeat(starts, count) + number * row_length, np.minimum(left, row_length), documents, 0


def best_fit(sizes: list[int], capacity: int) -> list[int]:
    """The row of each of `sizes`, 1 to `capacity`, in turn: the fullest row that it fits into, or a new one.

    Given in falling order this is best-fit decreasing. `free` has bit f set where a row with f places left is open.
    """
    open_rows: list[list[int]] = [[] for _ in range(capacity + 1)]
    free, rows, chosen = 0, 0, []
    for size in sizes:
        fitting = free >> size
        if fitting:
            left = size + (fitting & -fitting).bit_length() - 1
            row = open_rows[left].pop()
            if not open_rows[left]:
                free &= ~(1 << left)
        else:
            left, row = capacity, rows
            rows += 1
        chosen.append(row)
        if left > size:
            open_rows[left - size].append(row)
            free |= 1 << (left - size)
    return chosen

"""Which documents the targets of a set's rows are of, whether rows are cut from the stream or hold whole documents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.data.tokens.dataset import Dataset


@dataclass(frozen=True)
class DocumentPieces:
    """The targets of the first rows in file order, cut where a document or a row begins.

    Row r has the pieces [firsts[r], firsts[r + 1]), one after the other from its first target on; piece p is
    `targets[p]` targets of the document `documents[p]`, by its number in the set. What is left of a row is padding.
    """

    firsts: np.ndarray  # (rows + 1,) int64
    targets: np.ndarray  # (pieces,) int64
    documents: np.ndarray  # (pieces,) int64

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.firsts) - 1

    def sum_targets(self, row: int, values: np.ndarray) -> tuple[slice, np.ndarray]:
        """The pieces of rows from `row` on, and of each the sum of its targets' values (rows, L), 0 where padded."""
        count, length = values.shape
        pieces = slice(int(self.firsts[row]), int(self.firsts[row + count]))
        sizes, firsts = self.targets[pieces], self.firsts[row : row + count] - self.firsts[row]
        before = np.cumsum(sizes) - sizes
        of_row = np.repeat(np.arange(count), np.diff(self.firsts[row : row + count + 1]))
        starts = before - before[firsts][of_row] + of_row * length
        return pieces, np.add.reduceat(values.astype(np.float64).ravel(), starts)


def document_pieces(dataset: Dataset, rows: int) -> DocumentPieces:
    """The pieces of the first `rows` rows. Reads the lengths of documents."""
    firsts, targets, documents = [np.zeros(1, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    pieces = before = 0
    for number, shard in enumerate(dataset.manifest.shards):
        count = min(rows, dataset.rows.rows[number])
        if count > 0:
            cut = _packed(dataset, number, count) if dataset.packing else _cut_stream(dataset, number, count)
            firsts.append(cut.firsts[1:] + pieces)
            targets.append(cut.targets)
            documents.append(cut.documents + before)
            pieces += len(cut.targets)
        rows -= count
        before += shard.documents
    return DocumentPieces(np.concatenate(firsts), np.concatenate(targets), np.concatenate(documents))


def _packed(dataset: Dataset, shard: int, rows: int) -> DocumentPieces:
    table = dataset.row_tables[shard]
    last = int(table.firsts[rows])
    return DocumentPieces(table.firsts[: rows + 1], table.places[:last], table.documents[:last])


def _cut_stream(dataset: Dataset, shard: int, rows: int) -> DocumentPieces:
    """Of rows whose targets are the tokens from 1 on. A document's first token follows the end of the one before."""
    length = dataset.sequence_length
    begins = dataset.starts_of(np.full(rows, shard), np.arange(rows, dtype=np.int64)) + 1
    last = int(begins[-1]) + length
    ends = dataset.shards[shard].ends_before(last)
    starts = np.union1d(begins, ends[(ends > begins[0]) & (ends < last)])
    firsts = np.append(np.searchsorted(starts, begins), len(starts))
    return DocumentPieces(firsts, np.diff(np.append(starts, last)), np.searchsorted(ends, starts, side="right"))

"""The second stage: hashes of paragraphs → those that came before, a range of hashes at a time.

Of equal paragraphs the first in the order of the sources stays, whoever sorts them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from trainer.data.revise.survey import COLUMN_BYTES, COLUMNS, paragraphs_path
from trainer.data.text.document_store import DocumentStore
from trainer.data.text.workers import Work
from trainer.machine.durable import replacing, write_json
from trainer.machine.json_file import Count, Malformed, from_json, read_json
from trainer.machine.sealing.plaintext import map_plaintext, plaintext_size

REPEATED = np.dtype([(name, "<i8") for name in ("source", "record", "number", "first_source", "first_record")])
PARAGRAPH_COST = 160  # bytes of memory for a paragraph while it is sorted


@dataclass(frozen=True)
class Repeated:
    """How many paragraphs of a range came before."""

    count: Count


@dataclass(frozen=True)
class FindRepeated(Work[int, Repeated]):
    """Work item n is the nth of `ranges` equal ranges of hashes."""

    store: DocumentStore
    paragraphs: tuple[int, ...]  # of each bucket
    ranges: int

    @staticmethod
    def ranges_for(paragraphs: int, memory_bytes: int) -> int:
        """Ranges of which each fits into memory."""
        return max(1, -(-paragraphs * PARAGRAPH_COST // memory_bytes))

    def table_path(self, item: int) -> Path:
        """The paragraphs of a range that came before: REPEATED, by source, record and number."""
        return self.store.folder / f"repeated-{item:06d}.table"

    def note(self, item: int) -> Path:
        """How many there are."""
        return self.table_path(item).with_suffix(".json")

    def __call__(self, item: int) -> Repeated:
        """Gathers and sorts the hashes."""
        note = self.note(item)
        try:
            return from_json(Repeated, read_json(note))
        except FileNotFoundError:
            pass
        except Malformed as error:
            raise self.store.unreadable(note, error) from error
        low, high = (-(-(item + shift) * 2**64 // self.ranges) for shift in (0, 1))
        gathered = [self._range(bucket, low, high) for bucket in range(len(self.paragraphs))]
        table = _repeated(np.concatenate([np.empty((len(COLUMNS), 0), np.uint64), *gathered], axis=1))
        with replacing(self.table_path(item)) as file:
            file.write(table.tobytes())
        found = Repeated(len(table))
        write_json(note, asdict(found))
        return found

    def _range(self, bucket: int, low: int, high: int) -> np.ndarray:
        """A bucket's paragraphs whose hashes begin in [low, high), which may be 2**64: uint64 (COLUMNS, paragraphs)."""
        count, path = self.paragraphs[bucket], paragraphs_path(self.store.folder, bucket)
        if not count:
            return np.empty((len(COLUMNS), 0), np.uint64)
        try:
            if plaintext_size(path) != count * COLUMN_BYTES * len(COLUMNS):
                raise ValueError("cut short")
            table = map_plaintext(path, "<u8", 0, (len(COLUMNS), count))
        except (OSError, ValueError) as error:
            raise self.store.unreadable(path, getattr(error, "strerror", None) or error) from error
        first = int(np.searchsorted(table[0], np.uint64(low)))
        last = int(np.searchsorted(table[0], np.uint64(high))) if high < 2**64 else count
        return np.array(table[:, first:last])

    def between(self, first: tuple[int, int], last: tuple[int, int]) -> np.ndarray:
        """The repeated paragraphs of the documents between two, as (source, record), both included: REPEATED."""
        found = [np.empty(0, REPEATED)]
        for item in range(self.ranges):
            path = self.table_path(item)
            try:
                size = plaintext_size(path)
                if size % REPEATED.itemsize:
                    raise ValueError("cut short")
                if size:
                    table = map_plaintext(path, REPEATED, 0, (size // REPEATED.itemsize,))
                    found.append(np.array(table[_place(table, first) : _place(table, (last[0], last[1] + 1))]))
            except (OSError, ValueError) as error:
                raise self.store.unreadable(path, getattr(error, "strerror", None) or error) from error
        joined = np.concatenate(found)
        return joined[np.lexsort((joined["number"], joined["record"], joined["source"]))]


def _place(table: np.ndarray, document: tuple[int, int]) -> int:
    """Where the rows of a document begin, or would."""
    low, high = 0, len(table)
    while low < high:
        middle = (low + high) // 2
        if (int(table["source"][middle]), int(table["record"][middle])) < document:
            low = middle + 1
        else:
            high = middle
    return low


def _repeated(table: np.ndarray) -> np.ndarray:
    """Of paragraphs (COLUMNS, paragraphs) those whose hash an earlier one has: REPEATED, in source order."""
    high, low, source, record, number = table[:, np.lexsort(table[::-1])]
    begins = np.ones(len(high), bool)
    begins[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    firsts = np.maximum.accumulate(np.where(begins, np.arange(len(high)), 0)) if len(high) else np.empty(0, np.int64)
    again = np.flatnonzero(~begins)
    found = np.empty(len(again), REPEATED)
    found["source"], found["record"], found["number"] = source[again], record[again], number[again]
    found["first_source"], found["first_record"] = source[firsts[again]], record[firsts[again]]
    return found[np.lexsort((found["number"], found["record"], found["source"]))]

"""The second stage: band keys → pairs of documents to compare, a band's range of keys at a time.

Documents with one key are a group; each is compared with the first of it, and with the one before it. Of groups, the
first is the one with the lowest number, or one of an earlier index.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from trainer.data.near.index import NearIndex
from trainer.data.near.signed import MOST_OF_A_BUCKET, PAIR, SignedStore
from trainer.data.text.workers import Work
from trainer.machine.durable import replacing, write_json
from trainer.machine.json_file import Count, Malformed, from_json, read_json

KEY_COST = 48  # bytes of memory for a key and its document while they are sorted


@dataclass(frozen=True)
class Pairs:
    """How many pairs a range of keys gave."""

    count: Count


@dataclass(frozen=True)
class FindCandidates(Work[int, Pairs]):
    """Work item n is range n % ranges of band n // ranges."""

    signed: SignedStore
    documents: tuple[int, ...]  # of each bucket
    ranges: int
    against: tuple[NearIndex, ...]

    @staticmethod
    def ranges_for(documents: int, memory_bytes: int) -> int:
        """Ranges of keys of which each fits into memory."""
        return max(1, -(-documents * KEY_COST // memory_bytes))

    def pairs_path(self, item: int) -> Path:
        """The pairs of a work item: PAIR, sorted."""
        return self.signed.store.folder / f"near-pairs-{item:06d}.pairs"

    def note(self, item: int) -> Path:
        """How many there are."""
        return self.pairs_path(item).with_suffix(".json")

    def __call__(self, item: int) -> Pairs:
        """Gathers and sorts the keys."""
        note = self.note(item)
        try:
            return from_json(Pairs, read_json(note))
        except FileNotFoundError:
            pass
        except Malformed as error:
            raise self.signed.store.unreadable(note, error) from error
        band, number = divmod(item, self.ranges)
        low, high = (-(-(number + shift) * 2**64 // self.ranges) for shift in (0, 1))
        found = list(self._gathered(band, low, high))
        keys = np.concatenate([np.empty(0, np.uint64), *(keys for keys, _ in found)])
        numbers = np.concatenate([np.empty(0, np.uint64), *(numbers for _, numbers in found)])
        pairs = _pairs(keys, numbers)
        with replacing(self.pairs_path(item)) as file:
            file.write(pairs.tobytes())
        written = Pairs(len(pairs))
        write_json(note, asdict(written))
        return written

    def _gathered(self, band: int, low: int, high: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The keys of a range, and the numbers of their documents, by bucket; those of earlier indices first."""
        for index in self.against:
            keys, places = index.keys(band)
            first, last = _range_of(keys, low, high)
            yield np.array(keys[first:last]), index.number_of(places[first:last])
        for bucket, count in enumerate(self.documents):
            keys, places = self.signed.keys(bucket, band, count)
            first, last = _range_of(keys, low, high)
            numbers = places[first:last].astype(np.uint64) + np.uint64(bucket * MOST_OF_A_BUCKET)
            yield np.array(keys[first:last]), numbers


def _range_of(keys: np.ndarray, low: int, high: int) -> tuple[int, int]:
    """The places of the keys in [low, high) among sorted ones; `high` may be 2**64."""
    first = int(np.searchsorted(keys, np.uint64(low))) if low < 2**64 else len(keys)
    return first, int(np.searchsorted(keys, np.uint64(high))) if high < 2**64 else len(keys)


def _pairs(keys: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The pairs of equal keys: PAIR, sorted, each once. Numbers of equal keys come in the order of `numbers`."""
    order = np.argsort(keys, kind="stable")
    keys, numbers = keys[order], numbers[order]
    same = np.flatnonzero(keys[1:] == keys[:-1]) + 1  # equal to the one before
    begins = np.ones(len(keys), bool)
    begins[same] = False
    group = np.maximum.accumulate(np.where(begins, np.arange(len(keys)), 0)) if len(keys) else np.empty(0, np.int64)
    pairs = np.empty(2 * len(same), PAIR)
    pairs["first"] = np.concatenate([numbers[group[same]], numbers[same - 1]])
    pairs["second"] = np.concatenate([numbers[same], numbers[same]])
    return unique_pairs(pairs)


def unique_pairs(pairs: np.ndarray) -> np.ndarray:
    """Sorted by first and second, each once."""
    pairs = pairs[np.lexsort((pairs["second"], pairs["first"]))]
    different = np.ones(len(pairs), bool)
    different[1:] = (pairs["first"][1:] != pairs["first"][:-1]) | (pairs["second"][1:] != pairs["second"][:-1])
    return pairs[different]

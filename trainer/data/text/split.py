"""Where a document goes: held out or not, place in the shuffle, bucket, shard. Pure functions of hashes and sizes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

BUCKET_BYTES = 128 * 2**20  # of text in a bucket, about, as long as there are no more than MOST_BUCKETS
MOST_BUCKETS = 2048
FILE_BYTES = 256 * 2**20  # of text in the same file of all work items, about, as long as these have MOST_FILES at most
MOST_FILES = 16


def held_out(hashes: np.ndarray, fraction: float) -> np.ndarray:
    """Which documents are held out of training: hashes (documents, 2) uint64 → (documents,) bool.

    Only the document's own bytes decide, so that neither order nor neighbours nor seed move it.
    """
    if fraction >= 1:
        return np.ones(len(hashes), dtype=bool)
    return hashes[:, 0] < np.uint64(int(fraction * 2.0**64))


def shuffle_place(digest: bytes, seed: int, copy: int = 0) -> int:
    """A document's place in the shuffle, 0 to 2**64 - 1: xxh3-64 (seed, xxh3-128 of the document).

    Documents are ordered by it. Equal documents (data.deduplicate=false) keep the order of their sources. Of a further
    copy (data.rehydrate) its number is hashed, too.
    """
    return xxhash.xxh3_64_intdigest(digest + copy.to_bytes(4, "big") if copy else digest, seed)


@dataclass(frozen=True)
class Buckets:
    """Equal ranges of places in the shuffle: `count` of them, stored in `files` files of consecutive buckets each."""

    count: int
    files: int

    @staticmethod
    def for_bytes(size: int) -> Buckets:
        """As many as `size` bytes of text ask for."""
        count = min(MOST_BUCKETS, max(1, -(-size // BUCKET_BYTES)))
        return Buckets(count, min(MOST_FILES, count, max(1, -(-size // FILE_BYTES))))

    def of(self, places: np.ndarray) -> np.ndarray:
        """The buckets of places (documents,) uint64 → (documents,) int64."""
        half = np.uint64(32)
        return ((places >> half) * np.uint64(self.count) >> half).astype(np.int64)

    def file_of(self, bucket: int) -> int:
        """The file that a bucket is in."""
        return bucket * self.files // self.count

    def last_in(self, file: int) -> int:
        """The last bucket of a file."""
        return -(-(file + 1) * self.count // self.files) - 1


def shard_ranges(total: int, shard_bytes: int, long: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges of a split's `total` bytes of text, about `shard_bytes` each: a document is where its first byte falls.

    They are of one size, ceil(total / shard_bytes) of them, without those in which no document begins. `long` are the
    documents of more than shard_bytes // 2 bytes, (first byte, bytes) in order: only these can cover a range.
    """
    count = -(-total // shard_bytes)
    edges = (-(-number * total // count) for number in range(count + 1))
    starts = [start for start, _ in long]
    found, first = [], next(edges, 0)
    for last in edges:
        before = bisect_left(starts, first) - 1  # the last long document that begins before the range
        if last > first and (before < 0 or sum(long[before]) < last):
            found.append((first, last))
        first = last
    return found

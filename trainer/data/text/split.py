"""Where each document goes: held out or not, place in the shuffle, shard. Pure functions of hashes and sizes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import xxhash


def held_out(hashes: np.ndarray, fraction: float) -> np.ndarray:
    """Which documents are held out of training: hashes (documents, 2) uint64 → (documents,) bool.

    Only the document's own bytes decide, so that neither order nor neighbours nor seed move it.
    """
    if fraction >= 1:
        return np.ones(len(hashes), dtype=bool)
    return hashes[:, 0] < np.uint64(int(fraction * 2.0**64))


def shuffle_order(hashes: np.ndarray, seed: int) -> np.ndarray:
    """The documents in order of xxh3(seed, hash): hashes (documents, 2) uint64 → (documents,) positions.

    Equal documents (data.deduplicate=false) keep the order of their sources.
    """
    raw = hashes.astype(">u8").tobytes()
    pieces = (raw[place : place + 16] for place in range(0, len(raw), 16))
    keys = np.fromiter((xxhash.xxh3_64_intdigest(piece, seed) for piece in pieces), np.uint64, len(hashes))
    return np.argsort(keys, kind="stable")


def cut_into_shards(lengths: np.ndarray, shard_bytes: int) -> list[slice]:
    """Contiguous ranges of documents with about `shard_bytes` of text each: lengths (documents,) in bytes, in order.

    The shards are of one size: ceil(total / shard_bytes) of them, each document where its first byte falls. A
    document longer than a shard may leave a range empty; that shard isn't made.
    """
    total = int(lengths.sum())
    shards = -(-total // shard_bytes)
    starts = np.cumsum(lengths) - lengths
    numbers = starts * shards // max(1, total)
    edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(lengths)]
    return [slice(first, last) for first, last in pairwise(edges) if last > first]

"""Hashes of runs of characters and words, for compiled code, and the tables that count them.

The hash of a run is a polynomial over its code points modulo 2^64, so that the hash of two runs together follows from
theirs: hash(ab) = hash(a)·BASE^len(b) + hash(b). Two runs among n differ and have one hash with a chance of about
n²/2^65; what hangs on it here is a count of duplicates.
"""

from __future__ import annotations

import numpy as np

from trainer.data.compiled import compiled

BASE = np.uint64(0x9E3779B97F4A7C55)
OFFSET = np.uint64(0xD6E8FEB86659FD93)  # added to a code point, so that leading zeros count
MIX = np.uint64(0xFF51AFD7ED558CCD)
HALF = np.uint64(32)
ONE = np.uint64(1)


@compiled
def extended(hashed: np.uint64, point: np.uint32) -> np.uint64:
    """The hash of a run with one character more."""
    return hashed * BASE + np.uint64(point) + OFFSET


@compiled
def key_of(hashed: np.uint64) -> np.uint64:
    """A hash whose low bits depend on all of it; never 0, which marks a free slot."""
    key = hashed * MIX
    key ^= key >> HALF
    return key if key != np.uint64(0) else ONE


@compiled
def table_size(entries: int) -> int:
    """Slots of a table for so many entries: a power of two, at most half full."""
    size = 16
    while size < 2 * entries:
        size *= 2
    return size


@compiled
def slot_of(table: np.ndarray, key: np.uint64, size: int) -> int:
    """Where a key is in a table of `size` slots, or the free slot where it belongs."""
    slot = np.int64(key & np.uint64(size - 1))
    while table[slot] != np.uint64(0) and table[slot] != key:
        slot = (slot + 1) & (size - 1)
    return int(slot)


def hash_of(text: str) -> int:
    """The hash of a text, in plain Python: what compiled code makes of its characters."""
    hashed = 0
    for letter in text:
        hashed = (hashed * int(BASE) + ord(letter) + int(OFFSET)) % 2**64
    return hashed

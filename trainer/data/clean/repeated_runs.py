"""Which share of a text's runs of n words came before in it."""

from __future__ import annotations

import numpy as np

from trainer.data.clean.hashes import extended, key_of, slot_of, table_size
from trainer.data.clean.words import WordSpans
from trainer.data.compiled import compiled


def repeated_share(points: np.ndarray, words: WordSpans, size: int) -> float:
    """The share of the runs of `size` words that came before in the text, 0 if there are none."""
    if len(words) < size:
        return 0.0
    return float(_repeated(run_hashes(points, words.starts, words.stops, size)))


@compiled
def word_hashes(points: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """The hash of each word: uint64 (words,)."""
    hashes = np.empty(len(starts), np.uint64)
    for word in range(len(starts)):
        hashed = np.uint64(0)
        for place in range(starts[word], stops[word]):
            hashed = extended(hashed, points[place])
        hashes[word] = key_of(hashed)
    return hashes


@compiled
def runs_of(hashes: np.ndarray, size: int) -> np.ndarray:
    """The hash of each run of `size` words: uint64 (words - size + 1,); of all words where there are fewer."""
    count = max(1, len(hashes) - size + 1)
    runs = np.empty(count, np.uint64)
    for first in range(count):
        hashed = np.uint64(0)
        for place in range(first, min(first + size, len(hashes))):
            hashed = (hashed + hashes[place]) * np.uint64(0x9FB21C651E98DF25)
            hashed ^= hashed >> np.uint64(29)
        runs[first] = key_of(hashed)
    return runs


@compiled
def run_hashes(points: np.ndarray, starts: np.ndarray, stops: np.ndarray, size: int) -> np.ndarray:
    """The hash of each run of `size` words of a text."""
    return runs_of(word_hashes(points, starts, stops), size)


@compiled
def _repeated(runs: np.ndarray) -> float:
    size = table_size(len(runs))
    table = np.zeros(size, np.uint64)
    again = 0
    for key in runs:
        slot = slot_of(table, key, size)
        again += table[slot] == key
        table[slot] = key
    return again / len(runs)

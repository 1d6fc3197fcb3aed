"""MinHash: signatures of which the share of equal places estimates the Jaccard similarity of two sets of shingles.

Broder 1997, "On the resemblance and containment of documents". Place j of a signature is the least of
(shingle · A[j] + B[j]) mod 2^64 / 2^32 over all shingles, A odd and both drawn from a fixed seed: multiply-add-shift
(Dietzfelbinger et al. 1997). With n places the standard deviation of the estimate is sqrt(J(1 - J) / n).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from trainer.data.clean.hashes import key_of
from trainer.data.clean.plain_words import plain_words
from trainer.data.clean.repeated_runs import runs_of
from trainer.data.compiled import compiled

VERSION = 1  # raise it when the same text would get another signature
SEED = 20130  # of A and B


@dataclass(frozen=True)
class Scheme:
    """Shingles of `words` words; signatures of `bands` times `rows` minima."""

    words: int
    bands: int
    rows: int

    @property
    def places(self) -> int:
        """Minima in a signature."""
        return self.bands * self.rows

    def found(self, similarity: float) -> float:
        """The chance that two documents of this similarity share a band, and so are compared."""
        return float(1 - (1 - similarity**self.rows) ** self.bands)


def shingles(text: str, words: int) -> np.ndarray:
    """The different shingles of a text as hashes, sorted: uint64; none where it has no letter and no digit."""
    found = plain_words(text)
    return np.unique(runs_of(found, words)) if len(found) else np.empty(0, np.uint64)


def signature(text: str, scheme: Scheme) -> np.ndarray | None:
    """The minima of a text: uint32 (places,); None where it has no letter and no digit."""
    found = plain_words(text)
    return _minima(runs_of(found, scheme.words), *_factors(scheme.places)) if len(found) else None


def band_keys(signatures: np.ndarray, scheme: Scheme, band: int) -> np.ndarray:
    """A hash of a band: uint32 (documents, places) → uint64 (documents,)."""
    rows = signatures[:, band * scheme.rows : (band + 1) * scheme.rows]
    return _band_keys(np.ascontiguousarray(rows), band)


def estimated(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The estimated similarity of documents in pairs: uint32 (pairs, places) twice → float64 (pairs,)."""
    return (first == second).mean(axis=-1)


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """Shingles that two documents share, of all they have: both sorted, each once; 0 where both are empty."""
    shared = _shared(first, second)
    every = len(first) + len(second) - shared
    return shared / every if every else 0.0


@cache
def _factors(places: int) -> tuple[np.ndarray, np.ndarray]:
    """A and B, by splitmix64 from SEED, so that no library's generator decides."""
    values, state, mask = [], SEED, 2**64 - 1
    for _ in range(2 * places):
        state = (state + 0x9E3779B97F4A7C15) & mask
        mixed = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & mask
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB & mask
        values.append(mixed ^ (mixed >> 31))
    return np.array(values[:places], np.uint64) | np.uint64(1), np.array(values[places:], np.uint64)


@compiled
def _minima(hashes: np.ndarray, factors: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """A place at a time, so that one least value stays in a register; the least product has the least upper half."""
    minima = np.empty(len(factors), np.uint32)
    for place in range(len(factors)):
        factor, term, least = factors[place], terms[place], np.uint64(0xFFFFFFFFFFFFFFFF)
        for number in range(len(hashes)):
            value = hashes[number] * factor + term
            least = value if value < least else least
        minima[place] = np.uint32(least >> np.uint64(32))
    return minima


@compiled
def _band_keys(minima: np.ndarray, band: int) -> np.ndarray:
    keys = np.empty(len(minima), np.uint64)
    for document in range(len(minima)):
        key = np.uint64(band + 1)
        for minimum in minima[document]:
            key = key_of(key * np.uint64(0x9FB21C651E98DF25) + np.uint64(minimum))
        keys[document] = key
    return keys


@compiled
def _shared(first: np.ndarray, second: np.ndarray) -> int:
    shared, left, right = 0, 0, 0
    while left < len(first) and right < len(second):
        if first[left] == second[right]:
            shared += 1
            left += 1
            right += 1
        elif first[left] < second[right]:
            left += 1
        else:
            right += 1
    return shared

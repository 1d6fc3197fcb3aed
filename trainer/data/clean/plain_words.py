"""Words without case, punctuation and layout: what two texts have in common hangs on these.

A word is a run of letters and digits in small letters; each Chinese character is one.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from trainer.data.clean.characters import ALPHANUMERIC, HAN, character_classes, code_points
from trainer.data.clean.hashes import extended, key_of
from trainer.data.clean.repeated_runs import runs_of


def plain_runs(text: str, size: int) -> np.ndarray:
    """The hashes of the runs of `size` words of a text: uint64, in order; one of all words where there are fewer."""
    return runs_of(plain_words(text), size)


def plain_words(text: str) -> np.ndarray:
    """The hashes of a text's words: uint64 (words,)."""
    return _words(code_points(text.lower()), character_classes())


@njit(nogil=True, cache=True)
def _words(points: np.ndarray, classes: np.ndarray) -> np.ndarray:
    total = len(points)
    hashes = np.empty(total, np.uint64)
    count, place = 0, 0
    while place < total:
        kind = classes[points[place]]
        if not kind & (ALPHANUMERIC | HAN):
            place += 1
            continue
        hashed = extended(np.uint64(0), points[place])
        place += 1
        if not kind & HAN:
            while place < total and (classes[points[place]] & (ALPHANUMERIC | HAN)) == ALPHANUMERIC:
                hashed = extended(hashed, points[place])
                place += 1
        hashes[count] = key_of(hashed)
        count += 1
    return hashes[:count].copy()

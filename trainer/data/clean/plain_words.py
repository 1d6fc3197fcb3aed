"""Words without case, punctuation and layout: what two texts have in common hangs on these.

A word is a run of letters and digits in small letters; each Chinese character is one.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from trainer.data.clean.characters import ALPHANUMERIC, HAN, character_classes, code_points
from trainer.data.clean.hashes import extended, key_of
from trainer.data.clean.repeated_runs import runs_of
from trainer.data.compiled import compiled


def plain_runs(text: str, size: int) -> np.ndarray:
    """The hashes of the runs of `size` words of a text: uint64, in order; one of all words where there are fewer."""
    return runs_of(plain_words(text), size)


def plain_words(text: str) -> np.ndarray:
    """The hashes of a text's words: uint64 (words,)."""
    return _words(code_points(text), _letters())


ALONE = np.uint32(1 << 31)  # marks a character that is a word by itself


@cache
def _letters() -> np.ndarray:
    """What each code point is in a word: 0 if it is in none, else its small letter, with ALONE if Chinese."""
    classes = character_classes()
    letters = np.zeros(len(classes), np.uint32)
    for point in np.flatnonzero(classes & (ALPHANUMERIC | HAN)).tolist():
        letters[point] = ord(chr(point).lower()[0])
    letters[(classes & HAN) != 0] |= ALONE
    letters.flags.writeable = False
    return letters


@compiled
def _words(points: np.ndarray, letters: np.ndarray) -> np.ndarray:
    hashes = np.empty(len(points), np.uint64)
    count, hashed, inside = 0, np.uint64(0), False
    for point in points:
        letter = letters[point]
        if letter - np.uint32(1) < ALONE - np.uint32(1):  # neither 0 nor ALONE
            hashed = extended(hashed, letter)
            inside = True
            continue
        if inside:
            hashes[count] = key_of(hashed)
            count += 1
            hashed, inside = np.uint64(0), False
        if letter:
            hashes[count] = key_of(extended(np.uint64(0), letter))
            count += 1
    if inside:
        hashes[count] = key_of(hashed)
        count += 1
    return hashes[:count].copy()

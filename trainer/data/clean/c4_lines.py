"""What C4 asks of each line of a text, in one pass of compiled code.

A line ends where str.splitlines ends it, and is looked at without white space at its ends.
"""

from __future__ import annotations

import numpy as np

from trainer.data.clean.characters import LINE_BREAK, SPACE, character_classes
from trainer.data.compiled import compiled

PHRASES = (
    "javascript",
    "lorem ipsum",
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
JAVASCRIPT, LOREM = 1, 2  # bits of PHRASES, in their order; all others are policies
POLICIES = 0xFC
CURLY, SQUARE, TERMINAL, ELLIPSIS = 256, 512, 1024, 2048  # {, [, ends like a sentence, ends in "..."

COLUMNS = ("start", "stop", "flags", "words", "longest_word")
_FLAGS = 2
_CR, _LF, _DOT = 0x0D, 0x0A, 0x2E
_KELVIN = 0x212A  # str.lower makes it a k


def line_table(points: np.ndarray) -> np.ndarray:
    """The lines of a text: int64 (lines, 5), by COLUMNS; start and stop without white space at the ends."""
    return _lines(points, character_classes(), _LETTERS, _ENDS)


def _phrase_table() -> tuple[np.ndarray, np.ndarray]:
    """All phrases end to end, and where each ends."""
    text = "".join(PHRASES)
    return np.array([ord(letter) for letter in text], np.uint32), np.cumsum([len(phrase) for phrase in PHRASES])


_LETTERS, _ENDS = _phrase_table()


@compiled
def _folded(point: np.uint32) -> np.uint32:
    """A capital's small letter, as far as phrases in ASCII can tell."""
    if 0x41 <= point <= 0x5A:
        return np.uint32(point + 0x20)
    return np.uint32(0x6B) if point == _KELVIN else point


@compiled
def _may_begin(first: np.uint32, second: np.uint32) -> bool:
    """Whether two letters begin a phrase: ja, lo, te, pr, co, us."""
    if second == 0x61:
        return first == 0x6A
    if second == 0x6F:
        return first == 0x6C or first == 0x63
    if second == 0x65:
        return first == 0x74
    return (second == 0x72 and first == 0x70) or (second == 0x73 and first == 0x75)


@compiled
def _phrases_at(points: np.ndarray, place: int, stop: int, letters: np.ndarray, ends: np.ndarray) -> int:
    """The bits of the phrases that begin at a place."""
    found, begin = 0, 0
    for phrase in range(len(ends)):
        length = ends[phrase] - begin
        if place + length <= stop:
            same = 0
            while same < length and _folded(points[place + same]) == letters[begin + same]:
                same += 1
            if same == length:
                found |= 1 << phrase
        begin = ends[phrase]
    return found


@compiled
def _lines(points: np.ndarray, classes: np.ndarray, letters: np.ndarray, ends: np.ndarray) -> np.ndarray:
    total, begin, count = len(points), 0, 0
    most = 0
    for point in points:
        most += (classes[point] & LINE_BREAK) != 0
    table = np.zeros((most + 1, 5), np.int64)
    while begin < total:
        end = begin
        while end < total and not classes[points[end]] & LINE_BREAK:
            end += 1
        start, stop = begin, end
        while start < stop and classes[points[start]] & SPACE:
            start += 1
        while stop > start and classes[points[stop - 1]] & SPACE:
            stop -= 1
        flags, words, longest, length = 0, 0, 0, 0
        for place in range(start, stop):
            point = points[place]
            if classes[point] & SPACE:
                length = 0
                continue
            words += length == 0
            length += 1
            longest = max(longest, length)
            if point == 0x7B:
                flags |= CURLY
            elif point == 0x5B:
                flags |= SQUARE
            else:
                if place + 1 < stop and _may_begin(_folded(point), _folded(points[place + 1])):
                    flags |= _phrases_at(points, place, stop, letters, ends)
        if stop > start:
            last = points[stop - 1]
            if last == _DOT or last == 0x3F or last == 0x21 or last == 0x22 or last == 0x27:
                flags |= TERMINAL
            if stop - start >= 3 and last == _DOT and points[stop - 2] == _DOT and points[stop - 3] == _DOT:
                flags |= ELLIPSIS
        table[count, 0], table[count, 1], table[count, 2] = start, stop, flags
        table[count, 3], table[count, 4] = words, longest
        count += 1
        windows = end + 1 < total and points[end] == _CR and points[end + 1] == _LF
        begin = end + (2 if windows else 1)
    return table[:count]

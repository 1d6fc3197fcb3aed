"""Counts over a text's characters, lines and paragraphs, in one pass of compiled code.

A line means three things in the rules that use these counts, which follow datatrove to the letter:
"paragraphs" are split at two or more line feeds, of the text without white space at its ends; "runs" at one or more
line feeds, of the whole text; "lines" as str.splitlines has them; and "rows" at each line feed, without blank ones.
"""

from __future__ import annotations

import numpy as np

from trainer.data.clean.characters import (
    ALPHABETIC,
    ALPHANUMERIC,
    DIGIT,
    HAN,
    LINE_BREAK,
    SIMPLIFIED,
    SPACE,
    TERMINAL,
    TRADITIONAL,
    UPPER,
    character_classes,
)
from trainer.data.clean.hashes import extended, key_of, slot_of, table_size
from trainer.data.compiled import compiled

SHORT = 30  # characters of a short row, usually

NAMES = (
    "characters",
    "newlines",  # line feeds
    "hashes",  # number signs
    "ellipses",  # "..." and "…"
    "paragraphs",
    "duplicate_paragraphs",  # paragraphs that came before in the text
    "duplicate_paragraph_characters",
    "runs",
    "duplicate_runs",
    "duplicate_run_characters",
    "lines",
    "bullet_lines",  # that begin in • or -, white space aside
    "ellipsis_lines",  # that end in "..." or "…", white space aside
    "longest_line",  # characters
    "rows",
    "terminal_rows",  # whose last character ends a sentence
    "short_rows",  # of at most `short` characters
    "duplicate_row_characters",
    "row_characters",  # in all rows
)
KIND_NAMES = (
    "spaces",  # characters of white space
    "alphabetic",  # letters of any script
    "alphanumeric",
    "digits",
    "uppercase",
    "han",  # Chinese characters
    "traditional",  # those of one script alone
    "simplified",
)
(
    _CHARACTERS, _NEWLINES, _HASHES, _ELLIPSES, _PARAGRAPHS, _DUP_PARAGRAPHS, _DUP_PARAGRAPH_CHARS, _RUNS, _DUP_RUNS,
    _DUP_RUN_CHARS, _LINES, _BULLETS, _ELLIPSIS_LINES, _LONGEST, _ROWS, _TERMINAL_ROWS, _SHORT_ROWS, _DUP_ROW_CHARS,
    _ROW_CHARS,
) = range(len(NAMES))  # fmt: skip

_LF, _CR, _DOT, _ELLIPSIS, _BULLET, _DASH, _HASH = 0x0A, 0x0D, 0x2E, 0x2026, 0x2022, 0x2D, 0x23


def line_signals(points: np.ndarray, *, short: int = SHORT) -> dict[str, int]:
    """The counts of a text, by NAMES: points (characters,) uint32. `short` rows have at most so many characters."""
    counts = _count(points, character_classes(), short)
    return dict(zip(NAMES, counts.tolist(), strict=True))


def kind_signals(points: np.ndarray) -> dict[str, int]:
    """How many characters of a text are of each kind, by KIND_NAMES."""
    return dict(zip(KIND_NAMES, _count_kinds(points, character_classes()).tolist(), strict=True))


@compiled
def _seen_before(table: np.ndarray, hashed: np.uint64, size: int) -> bool:
    """Whether a hash is in the table, in which it is from now on."""
    key = key_of(hashed)
    slot = slot_of(table, key, size)
    if table[slot] == key:
        return True
    table[slot] = key
    return False


@compiled
def _count_characters(points: np.ndarray, counts: np.ndarray) -> None:
    newlines, hashes, ellipses, in_a_row = 0, 0, 0, 0
    for place in range(len(points)):
        newlines += points[place] == _LF
        hashes += points[place] == _HASH
        ellipses += points[place] == _ELLIPSIS
    for place in range(2, len(points)):
        in_a_row += (points[place - 2] == _DOT) & (points[place - 1] == _DOT) & (points[place] == _DOT)
    dots = 0
    for place in range(len(points) if in_a_row else 0):
        dots = dots + 1 if points[place] == _DOT else 0
        if dots == 3:
            ellipses += 1
            dots = 0
    counts[_NEWLINES], counts[_HASHES], counts[_ELLIPSES] = newlines, hashes, ellipses


@compiled
def _count_kinds(points: np.ndarray, classes: np.ndarray) -> np.ndarray:
    counts = np.zeros(len(KIND_NAMES), np.int64)
    for point in points:
        kind = classes[point]
        counts[0] += (kind & SPACE) != 0
        counts[1] += (kind & ALPHABETIC) != 0
        counts[2] += (kind & ALPHANUMERIC) != 0
        counts[3] += (kind & DIGIT) != 0
        counts[4] += (kind & UPPER) != 0
        counts[5] += (kind & HAN) != 0
        counts[6] += (kind & TRADITIONAL) != 0
        counts[7] += (kind & SIMPLIFIED) != 0
    return counts


@compiled
def _count_paragraphs(points: np.ndarray, classes: np.ndarray, counts: np.ndarray) -> None:
    begin, end = 0, len(points)
    while begin < end and classes[points[begin]] & SPACE:
        begin += 1
    while end > begin and classes[points[end - 1]] & SPACE:
        end -= 1
    size = table_size(counts[_NEWLINES] // 2 + 2)
    table = np.zeros(size, np.uint64)
    start, hashed, place = begin, np.uint64(0), begin
    while place <= end:
        breaks = 0
        while place + breaks < end and points[place + breaks] == _LF:
            breaks += 1
        if place == end or breaks >= 2:
            counts[_PARAGRAPHS] += 1
            if _seen_before(table, hashed, size):
                counts[_DUP_PARAGRAPHS] += 1
                counts[_DUP_PARAGRAPH_CHARS] += place - start
            place += max(breaks, 1)
            start, hashed = place, np.uint64(0)
            continue
        hashed = extended(hashed, points[place])
        place += 1


@compiled
def _count_runs_and_rows(points: np.ndarray, classes: np.ndarray, short: int, counts: np.ndarray) -> None:
    """Both end at line feeds; a run may be empty at the text's ends alone, and a row may not be blank."""
    total = len(points)
    size = table_size(counts[_NEWLINES] + 2)
    runs, rows = np.zeros(size, np.uint64), np.zeros(size, np.uint64)
    start, hashed, blank = 0, np.uint64(0), True
    for place in range(total + 1):
        if place < total and points[place] != _LF:
            point = points[place]
            hashed = extended(hashed, point)
            blank &= (classes[point] & SPACE) != 0
            continue
        length = place - start
        if length > 0 or place == 0 or (place == total and points[total - 1] == _LF):
            counts[_RUNS] += 1
            if _seen_before(runs, hashed, size):
                counts[_DUP_RUNS] += 1
                counts[_DUP_RUN_CHARS] += length
        if not blank:
            counts[_ROWS] += 1
            counts[_ROW_CHARS] += length
            counts[_TERMINAL_ROWS] += (classes[points[place - 1]] & TERMINAL) != 0
            counts[_SHORT_ROWS] += length <= short
            if _seen_before(rows, hashed, size):
                counts[_DUP_ROW_CHARS] += length
        start, hashed, blank = place + 1, np.uint64(0), True


@compiled
def _count_lines(points: np.ndarray, classes: np.ndarray, counts: np.ndarray) -> None:
    total, start = len(points), 0
    while start < total:
        stop = start
        while stop < total and not classes[points[stop]] & LINE_BREAK:
            stop += 1
        counts[_LINES] += 1
        counts[_LONGEST] = max(counts[_LONGEST], stop - start)
        first, last = start, stop
        while first < stop and classes[points[first]] & SPACE:
            first += 1
        while last > start and classes[points[last - 1]] & SPACE:
            last -= 1
        if first < stop:
            counts[_BULLETS] += (points[first] == _BULLET) | (points[first] == _DASH)
            dots = last - start >= 3 and points[last - 1] == _DOT
            dots = dots and points[last - 2] == _DOT and points[last - 3] == _DOT
            counts[_ELLIPSIS_LINES] += dots or points[last - 1] == _ELLIPSIS
        windows = stop + 1 < total and points[stop] == _CR and points[stop + 1] == _LF
        start = stop + (2 if windows else 1)


@compiled
def _count(points: np.ndarray, classes: np.ndarray, short: int) -> np.ndarray:
    counts = np.zeros(len(NAMES), np.int64)
    counts[_CHARACTERS] = len(points)
    _count_characters(points, counts)
    _count_paragraphs(points, classes, counts)
    _count_runs_and_rows(points, classes, short, counts)
    _count_lines(points, classes, counts)
    return counts

"""Where in a text numbers and codes may be, found in one pass of compiled code: patterns are tried there alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.data.compiled import compiled

LEAST_DIGITS = 4
_BETWEEN = (0x20, 0x28, 0x29, 0x2B, 0x2D, 0x2E)  # blank ( ) + - .


@dataclass(frozen=True)
class DigitStretch:
    """Characters [start, stop) that are digits, blanks, dots, hyphens, brackets and plus signs: four digits or more."""

    start: int
    stop: int
    digits: int
    dots: int


@dataclass(frozen=True)
class Clues:
    """Stretches of digits; places of two capitals and two digits; how many colons stand between hexadecimal digits."""

    stretches: tuple[DigitStretch, ...]
    codes: tuple[int, ...]
    colons: int


def find_clues(points: np.ndarray) -> Clues:
    """The clues in a text with these code points."""
    stretches, codes, colons = _scan(points)
    return Clues(tuple(DigitStretch(*row) for row in stretches.tolist()), tuple(codes.tolist()), colons)


@compiled
def _is_digit(point: np.uint32) -> bool:
    return bool(0x30 <= point <= 0x39)


@compiled
def _is_hexadecimal(point: np.uint32) -> bool:
    small = point | np.uint32(0x20)
    return bool(0x30 <= point <= 0x39 or 0x61 <= small <= 0x66 or point == 0x3A)


@compiled
def _scan(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    total = len(points)
    stretches, codes = np.empty((total // LEAST_DIGITS + 1, 4), np.int64), np.empty(total // 4 + 1, np.int64)
    found, coded, colons, place = 0, 0, 0, 0
    while place < total:
        point = points[place]
        if point == 0x3A:
            inside = 0 < place < total - 1
            colons += inside and _is_hexadecimal(points[place - 1]) and _is_hexadecimal(points[place + 1])
            place += 1
            continue
        if not _is_digit(point):
            place += 1
            continue
        code = place >= 2 and place + 1 < total and _is_digit(points[place + 1])
        if code and 0x41 <= points[place - 1] <= 0x5A and 0x41 <= points[place - 2] <= 0x5A:
            codes[coded] = place - 2
            coded += 1
        begin, stop, digits, dots, dots_inside = place, place, 0, 0, 0
        while begin > 0 and (points[begin - 1] == 0x28 or points[begin - 1] == 0x2B):  # ( and + before the first digit
            begin -= 1
        while place < total:
            point = points[place]
            if _is_digit(point):
                digits += 1
                stop, dots = place + 1, dots_inside
            elif point in _BETWEEN:
                dots_inside += point == 0x2E
            else:
                break
            place += 1
        if digits >= LEAST_DIGITS:
            stretches[found, 0], stretches[found, 1] = begin, stop
            stretches[found, 2], stretches[found, 3] = digits, dots
            found += 1
    return stretches[:found], codes[:coded], colons

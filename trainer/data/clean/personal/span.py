"""A stretch of a text that is personal."""

from __future__ import annotations

from typing import NamedTuple


class Span(NamedTuple):
    """Characters [start, stop) of a text."""

    start: int
    stop: int


def luhn(digits: str) -> bool:
    """Whether the last digit checks the others (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, letter in enumerate(reversed(digits)):
        value = int(letter) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0

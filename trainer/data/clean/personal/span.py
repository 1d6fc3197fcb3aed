"""A stretch of a text that is personal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple


class Span(NamedTuple):
    """Characters [start, stop) of a text."""

    start: int
    stop: int


# Digits with what people write between them; (?<!\d) and not \b, which fails between a digit and a Chinese character.
_RUN = re.compile(r"(?<![\dA-Za-z])\+?\(?\d[\d\-. ()]{5,}[\dXx](?![\dA-Za-z])", re.ASCII)


def digit_runs(text: str) -> Iterator[re.Match[str]]:
    """Runs of seven digits or more, with blanks, dots, hyphens and brackets inside: what numbers are looked for in."""
    return _RUN.finditer(text)


def luhn(digits: str) -> bool:
    """Whether the last digit checks the others (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, letter in enumerate(reversed(digits)):
        value = int(letter) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0

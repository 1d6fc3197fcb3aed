"""Chinese resident identity numbers: 17 digits, of which 8 are a date of birth, and a check digit (GB 11643-1999)."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator

from trainer.data.clean.personal.clues import Clues
from trainer.data.clean.personal.span import Span

PLACEHOLDER = "<chinese-id>"
WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
CHECK_DIGITS = "10X98765432"
_NUMBER = re.compile(r"(?<![0-9A-Za-z])[1-8][0-9]{5}(?:18|19|20)[0-9]{9}[0-9Xx](?![0-9A-Za-z])")


def find(text: str, clues: Clues) -> Iterator[Span]:
    """The numbers in a text whose check digit and date are right."""
    for stretch in clues.stretches:
        if stretch.digits >= len(WEIGHTS):
            for found in _NUMBER.finditer(text, stretch.start, stretch.stop + 2):
                if is_chinese_id(found[0]):
                    yield Span(*found.span())


def is_chinese_id(number: str) -> bool:
    """Whether 18 characters are such a number."""
    total = sum(weight * int(digit) for weight, digit in zip(WEIGHTS, number[:17], strict=True))
    if CHECK_DIGITS[total % 11] != number[17].upper():
        return False
    try:
        datetime.date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    return True

"""Phone numbers, as libphonenumber judges them: those with + and a country, and those of the regions that are named."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from types import ModuleType

from trainer.data.clean.personal.clues import Clues
from trainer.data.clean.personal.span import Span
from trainer.data.text.libraries import library

PLACEHOLDER = "<phone>"
# Digits with what people write between them; (?<!\d) and not \b, which fails between a digit and a Chinese character.
_RUN = re.compile(r"(?<![\dA-Za-z.])\+?\(?\d[\d\-. ()]{5,}\d(?![\dA-Za-z])", re.ASCII)
LEAST_DIGITS, MOST_DIGITS = 7, 15  # ITU-T E.164
_PART = re.compile(r"[^ ]*\d\)?")  # between blanks
MOST_PARTS = 5
_GROUPS = re.compile(r"\(?\d{2,5}\)?[-. ]?(?:\d{2,8}[-. ]){0,3}\d{3,8}")
_DATE = re.compile(r"(?:1[89]|20)\d\d[-. ]\d{1,2}[-. ]\d{1,2}\b|\d{1,2}[-. ]\d{1,2}[-. ](?:1[89]|20)\d\d\b")


def find(text: str, clues: Clues, regions: Sequence[str]) -> Iterator[Span]:
    """The phone numbers in a text. Without + or a region's way of writing it, a number is no phone number."""
    for stretch in clues.stretches:
        if stretch.digits < LEAST_DIGITS:
            continue
        for run in _RUN.finditer(text, stretch.start, stretch.stop + 1):
            yield from _in_run(run[0], run.start(), tuple(regions))


def _in_run(run: str, begin: int, regions: tuple[str, ...]) -> Iterator[Span]:
    """The phone numbers in a run of digits, which may be several with blanks between them: the longest first."""
    parts = [(found.start(), found.end()) for found in _PART.finditer(run)]
    first = 0
    while first < len(parts):
        after = first + 1
        for last in range(min(len(parts), first + MOST_PARTS), first, -1):
            start, stop = parts[first][0], parts[last - 1][1]
            if run[start] == "(" and ")" not in run[start:stop]:
                start += 1  # the bracket is the text's
            if _may_be_phone(run[start:stop], regions):
                yield Span(begin + start, begin + stop)
                after = last
                break
        first = after


def _may_be_phone(written: str, regions: tuple[str, ...]) -> bool:
    digits = sum(letter.isdigit() for letter in written)
    return LEAST_DIGITS <= digits <= MOST_DIGITS and not _DATE.match(written) and is_phone(written, regions)


@lru_cache(maxsize=2**14)
def is_phone(written: str, regions: tuple[str, ...]) -> bool:
    """Whether it is a valid number of its country, or of one of the regions.

    Without + it must look like a phone number: 11 digits of a Chinese mobile phone, or groups of digits.
    """
    phonenumbers = library("phonenumbers", "data.clean.personal kind phone")
    if written.startswith("+"):
        return _is_valid(phonenumbers, written, None)
    mobile = "CN" in regions and re.fullmatch(r"1[3-9]\d{9}", written) is not None
    grouped = re.fullmatch(r"\(?\d{2,5}\)?[-. ]?(?:\d{2,8}[-. ]){0,3}\d{3,8}", written) and re.search(
        r"[-. )]", written
    )
    if not mobile and not grouped:
        return False
    return any(_is_valid(phonenumbers, written, region) for region in regions)


def _is_valid(phonenumbers: ModuleType, written: str, region: str | None) -> bool:
    try:
        return bool(phonenumbers.is_valid_number(phonenumbers.parse(written, region)))
    except phonenumbers.NumberParseException:
        return False

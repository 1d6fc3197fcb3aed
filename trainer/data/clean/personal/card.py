"""Numbers of payment cards: a known prefix with its lengths, and Luhn's check digit."""

from __future__ import annotations

import re
from collections.abc import Iterator

from trainer.data.clean.personal.clues import Clues
from trainer.data.clean.personal.span import Span, luhn

PLACEHOLDER = "<card>"
# Visa, Mastercard, American Express, Discover, JCB, Diners Club, UnionPay; Luhn alone passes a tenth of all numbers.
_KNOWN = re.compile(
    r"(?:4\d{12}(?:\d{3})?(?:\d{3})?"
    r"|(?:5[1-5]\d{2}|222[1-9]|22[3-9]\d|2[3-6]\d{2}|27[01]\d|2720)\d{12}"
    r"|3[47]\d{13}"
    r"|(?:6011|65\d{2}|64[4-9]\d)\d{12}"
    r"|35(?:2[89]|[3-8]\d)\d{12}"
    r"|3(?:0[0-5]|[68]\d)\d{11}"
    r"|62\d{14,17})\Z"
)
_LAYOUT = re.compile(
    r"(?<![0-9A-Za-z])"
    r"(?:\d{12,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,4}(?:\1\d{1,3})?|\d{4}([ -])\d{6}\2\d{4,5})"
    r"(?![0-9A-Za-z])",
    re.ASCII,
)
LEAST_DIGITS = 12


def find(text: str, clues: Clues) -> Iterator[Span]:
    """The card numbers in a text, written together or in the groups that cards have."""
    for stretch in clues.stretches:
        if stretch.digits >= LEAST_DIGITS:
            for found in _LAYOUT.finditer(text, stretch.start, stretch.stop + 1):
                digits = found[0].replace(" ", "").replace("-", "")
                if _KNOWN.match(digits) and luhn(digits):
                    yield Span(*found.span())

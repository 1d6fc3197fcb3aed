"""Numbers of payment cards: a known prefix with its lengths, and Luhn's check digit."""

from __future__ import annotations

import re
from collections.abc import Iterator

from trainer.data.clean.personal.span import Span, digit_runs, luhn

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
_LAYOUT = re.compile(r"\d{12,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,4}(?:\1\d{1,3})?|\d{4}([ -])\d{6}\2\d{4,5}")


def find(text: str) -> Iterator[Span]:
    """The card numbers in a text, written together or in the groups that cards have."""
    for run in digit_runs(text):
        for found in _LAYOUT.finditer(run[0]):
            digits = re.sub(r"[ -]", "", found[0])
            whole = not run[0][found.end() : found.end() + 1].isdigit() and not run[0][: found.start()][-1:].isdigit()
            if whole and _KNOWN.match(digits) and luhn(digits):
                yield Span(run.start() + found.start(), run.start() + found.end())

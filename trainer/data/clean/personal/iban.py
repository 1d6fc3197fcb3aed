"""International bank account numbers (ISO 13616): the country's length, and a remainder of 1 modulo 97."""

from __future__ import annotations

import re
from collections.abc import Iterator

from trainer.data.clean.personal.clues import Clues
from trainer.data.clean.personal.span import Span

PLACEHOLDER = "<iban>"
# Characters by country, from the SWIFT IBAN registry.
LENGTHS = {
    **dict.fromkeys(("NO",), 15),
    **dict.fromkeys(("BE",), 16),
    **dict.fromkeys(("DK", "FO", "FI", "GL", "NL", "SD", "FK"), 18),
    **dict.fromkeys(("MK", "SI"), 19),
    **dict.fromkeys(("AT", "BA", "EE", "KZ", "LT", "LU", "MN", "XK"), 20),
    **dict.fromkeys(("HR", "LV", "LI", "CH"), 21),
    **dict.fromkeys(("BH", "BG", "CR", "DE", "GE", "GB", "IE", "ME", "RS", "VA"), 22),
    **dict.fromkeys(("AE", "GI", "IQ", "IL", "OM", "SO", "TL"), 23),
    **dict.fromkeys(("AD", "CZ", "MD", "PK", "RO", "SA", "SK", "ES", "SE", "TN", "VG"), 24),
    **dict.fromkeys(("LY", "PT", "ST"), 25),
    **dict.fromkeys(("IS", "TR"), 26),
    **dict.fromkeys(("BI", "DJ", "FR", "GR", "IT", "MR", "MC", "SM"), 27),
    **dict.fromkeys(("AL", "AZ", "BY", "CY", "DO", "SV", "GT", "HU", "LB", "NI", "PL"), 28),
    **dict.fromkeys(("BR", "EG", "PS", "QA", "UA"), 29),
    **dict.fromkeys(("JO", "KW", "MU"), 30),
    **dict.fromkeys(("MT", "SC"), 31),
    **dict.fromkeys(("LC",), 32),
    **dict.fromkeys(("RU",), 33),
}
_CANDIDATE = re.compile(r"(?<![0-9A-Za-z])[A-Z]{2}[0-9]{2}(?: ?[0-9A-Z]){11,30}")


def find(text: str, clues: Clues) -> Iterator[Span]:
    """The account numbers in a text, written together or in groups."""
    for start in clues.codes:
        length = LENGTHS.get(text[start : start + 2])
        found = _CANDIDATE.match(text, start) if length is not None else None
        if length is None or found is None:
            continue
        end, taken = 0, 0
        while end < len(found[0]) and taken < length:
            taken += found[0][end] != " "
            end += 1
        after = text[found.start() + end : found.start() + end + 1]
        alone = not (after.isascii() and after.isalnum())
        if taken == length and alone and is_iban(found[0][:end].replace(" ", "")):
            yield Span(found.start(), found.start() + end)


def is_iban(number: str) -> bool:
    """Whether the check digits are right."""
    moved = number[4:] + number[:4]
    return int("".join(str(int(letter, 36)) for letter in moved)) % 97 == 1

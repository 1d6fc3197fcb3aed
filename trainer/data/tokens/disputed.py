"""Characters about which gigatoken 0.10 and `tokenizers` 0.23 disagree: their Unicode tables aren't equally new.

The letters, marks, numbers, punctuation and symbols of Unicode 17 are unassigned to `tokenizers`, which so cuts words
elsewhere; and its NFC knows no combining class or composition from after Unicode 9.
tests/data/tokens/test_disputed.py finds the characters anew, by giving all of Unicode to both.
"""

from __future__ import annotations

import re

import numpy as np

PIECE = 2**16  # bytes looked at together: they stay in the cache
SHORT = 2**12  # bytes in which a regular expression is quicker than numpy

_RANGES = """
    7fd 88f 897-89f 8ca-8d3 9fe c3c c5c cdc d3b-d3c eba 1715 1abf-1add 1ae0-1aeb 1df6-1dfa 20c1 2b96 a7ce-a7cf
    a7d2 a7d4 a7f1 a82c fbc3-fbd2 fd90-fd91 fdc8-fdce 105d2 105da 10940-10959 10d24-10d27 10d69-10d6d
    10eab-10eac 10ec5-10ec7 10ed0-10ed8 10efa-10efb 10efd-10eff 10f46-10f50 10f82-10f85 11070 1133b 11382 11384
    1138b 11390 113c2 113ce-113d0 1145e 11839-1183a 11935 1193d-1193e 11943 119e0 11a34 11a47 11a99 11b60-11b67
    11d42 11d44-11d45 11d97 11db0-11ddb 11de0-11de9 11f41-11f42 1611e 16121-16122 16129 1612f 16d63 16d67 16d69
    16ea0-16eb8 16ebb-16ed3 16ff0-16ff6 187f8-187ff 18d09-18d1e 18d80-18df2 1ccfa-1ccfc 1ceba-1ced0 1cee0-1cef0
    1e08f 1e130-1e136 1e2ae 1e2ec-1e2ef 1e4ec-1e4ef 1e5ee-1e5ef 1e6c0-1e6de 1e6e0-1e6f5 1e6fe-1e6ff 1f6d8
    1f777-1f77a 1f8d0-1f8d8 1fa54-1fa57 1fa8a 1fa8e 1fac8 1facd 1faea 1faef 1fbfa 2b73a-2b73f 2cea2-2cead
    323b0-33479
"""


def disputed() -> set[str]:
    """The characters."""
    found: set[str] = set()
    for span in _RANGES.split():
        first, _, last = span.partition("-")
        found.update(map(chr, range(int(first, 16), int(last or first, 16) + 1)))
    return found


class DisputedSearch:
    """Looks for disputed characters in UTF-8 text, at a fraction of what gigatoken takes for it."""

    def __init__(self) -> None:
        ends: dict[int, set[bytes]] = {}
        for character in map(str.encode, disputed()):
            ends.setdefault(character[0], set()).add(character[1:])
        self._lookups = [_Lookup(first, those) for first, those in sorted(ends.items())]

    def __call__(self, text: bytes) -> bool:
        """Whether `text` holds one."""
        return not text.isascii() and any(lookup(text) for lookup in self._lookups)


class _Lookup:
    """Looks for characters that begin with one byte: for that, then for its pairs with the next, then for them."""

    def __init__(self, first: int, ends: set[bytes]) -> None:
        self._first = first
        self._seconds = _intervals({end[0] for end in ends})
        self._pattern = re.compile(re.escape(bytes([first])) + _any_of(ends))

    def __call__(self, text: bytes) -> bool:
        near = self._first in text and (len(text) < SHORT or self._has_pair(text))
        return near and self._pattern.search(text) is not None

    def _has_pair(self, text: bytes) -> bool:
        everything = np.frombuffer(text, np.uint8)
        for start in range(0, len(text) - 1, PIECE):
            piece = everything[start : start + PIECE + 1]
            firsts, following = piece[:-1] == self._first, piece[1:]
            for low, high in self._seconds:  # following - low wraps around below low
                if (firsts & (following - np.uint8(low) <= high - low)).any():
                    return True
        return False


def _intervals(numbers: set[int]) -> list[tuple[int, int]]:
    """Intervals [low, high] that hold `numbers`, and short gaps between them."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number <= found[-1][1] + 2:
            found[-1][1] = number
        else:
            found.append([number, number])
    return [(low, high) for low, high in found]


def _any_of(strings: set[bytes]) -> bytes:
    """A regular expression for one of `strings`, none of which begins another: branches with equal ends are joined."""
    if strings == {b""}:
        return b""
    rest: dict[int, set[bytes]] = {}
    for string in strings:
        rest.setdefault(string[0], set()).add(string[1:])
    firsts: dict[bytes, list[int]] = {}
    for first, ends in sorted(rest.items()):
        firsts.setdefault(_any_of(ends), []).append(first)
    branches = (b"[" + re.escape(bytes(those)) + b"]" + ends for ends, those in firsts.items())
    return b"(?:" + b"|".join(branches) + b")"

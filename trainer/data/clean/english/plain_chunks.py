"""How chunks of plain characters are cut, in compiled code: pieces.py's rules for ASCII, usual quotes and dashes.

A chunk that these don't decide (what may be a URL; currencies; other characters; exceptions to be put together again)
is left to pieces.py. The tables are made by asking its rules, character by character.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from trainer.data.clean.english.pieces import EnglishPieces
from trainer.data.clean.hashes import extended, hash_of, key_of, slot_of, table_size
from trainer.data.compiled import compiled

PLAIN = 1  # is decided here at all
PREFIX = 2  # one word at the beginning of a chunk
SUFFIX = 4  # at its end
BEFORE_STOP = 8  # a full stop after it is a word
LETTER = 16
DIGIT = 32
UPPER = 64
QUOTE = 128  # before the s of a genitive
LOWER = 256
LEFT_OF_STOP = 512  # a full stop between these two kinds is a word
RIGHT_OF_STOP = 1024
BEYOND_ASCII = "‘’“”–—"
POINTS = 0x2020  # of the table
_LONGEST_UNIT = 5
LONGEST_LISTED = 12  # characters of an exception or unit
_STOP, _PLUS, _COMMA, _HYPHEN, _STAR, _CARET = 0x2E, 0x2B, 0x2C, 0x2D, 0x2A, 0x5E
_EN_DASH, _EM_DASH, _TILDE = 0x2013, 0x2014, 0x7E
_COLON, _LESS, _MORE, _EQUALS, _SLASH = 0x3A, 0x3C, 0x3E, 0x3D, 0x2F
_QUESTION, _HASH = 0x3F, 0x23
_SMALL_S, _LARGE_S = 0x73, 0x53


@dataclass(frozen=True)
class PlainRules:
    """The tables: kinds by code point; exceptions by hash, with their cuts; units; first two pieces of exceptions."""

    kinds: np.ndarray  # (POINTS,) uint16
    exceptions: np.ndarray  # a table of keys
    cuts: np.ndarray
    units: np.ndarray  # a table of keys
    pairs: np.ndarray  # a table of keys

    def arrays(self) -> tuple[np.ndarray, ...]:
        """All of them, as compiled code takes them."""
        return self.kinds, self.exceptions, self.cuts, self.units, self.pairs


def plain_rules(pieces: EnglishPieces) -> PlainRules:
    """The tables that these rules make."""
    kinds = np.zeros(POINTS, np.uint16)
    for letter in [*map(chr, range(0x21, 0x7F)), *BEYOND_ASCII]:
        kinds[ord(letter)] = _kind_of(letter, pieces)
    kinds[ord("$")] = 0
    assert max(map(len, pieces.exceptions)) == LONGEST_LISTED
    exceptions = _table([hash_of(text) for text in pieces.exceptions])
    cuts = np.zeros(len(exceptions), np.uint64)
    for text, inside in pieces.exceptions.items():
        cuts[_slot(exceptions, hash_of(text))] = sum(1 << len("".join(inside[:n])) for n in range(len(inside)))
    pairs = [_pair(hash_of(phrase[0]), hash_of(phrase[1])) for phrase in pieces.phrases if len(phrase) > 1]
    return PlainRules(kinds, exceptions, cuts, _table([hash_of(unit) for unit in _units(pieces)]), _table(pairs))


def _kind_of(letter: str, pieces: EnglishPieces) -> int:
    prefix, suffix = pieces.prefix(f"{letter}a"), pieces.suffix(f"a{letter}")
    return (
        PLAIN
        | PREFIX * (prefix is not None and letter != "+")
        | SUFFIX * (suffix is not None and letter not in ".+")
        | BEFORE_STOP * (pieces.suffix(f"{letter}.") is not None and letter != ".")
        | LETTER * letter.isalpha()
        | DIGIT * letter.isdigit()
        | UPPER * letter.isupper()
        | QUOTE * (letter in "'’")
        | LOWER * letter.islower()
        | LEFT_OF_STOP * (letter != "." and next(pieces.infixes(f"{letter}.A"), None) is not None)
        | RIGHT_OF_STOP * (letter != "." and next(pieces.infixes(f"a.{letter}"), None) is not None)
    )


def _units(pieces: EnglishPieces) -> list[str]:
    """Units in ASCII that are a word after a digit, which the suffixes' pattern lists."""
    listed = re.search(r"\(\?<=\[0-9\]\)\(\?:(km\|[^)]*)\)", pieces.suffix_pattern)
    assert listed is not None
    units = [unit for unit in listed[1].split("|") if unit.isascii()]
    assert all(len(unit) <= _LONGEST_UNIT and not re.search(r"[0-9\\]", unit) for unit in units)
    return units


def _table(hashes: list[int]) -> np.ndarray:
    keys = np.zeros(table_size(len(hashes)), np.uint64)
    for hashed in hashes:
        slot = _slot(keys, hashed)
        keys[slot] = key_of(np.uint64(hashed))
    return keys


def _slot(keys: np.ndarray, hashed: int) -> int:
    return int(slot_of(keys, np.uint64(key_of(np.uint64(hashed))), len(keys)))


def _pair(first: int, second: int) -> int:
    return int(_pair_hash(np.uint64(first), np.uint64(second)))


@compiled
def _pair_hash(first: np.uint64, second: np.uint64) -> np.uint64:
    return key_of(first) * np.uint64(0x9FB21C651E98DF25) + second


@compiled
def _hash(points: np.ndarray, start: int, stop: int) -> np.uint64:
    hashed = np.uint64(0)
    for place in range(start, stop):
        hashed = extended(hashed, points[place])
    return hashed


@compiled
def _find(table: np.ndarray, points: np.ndarray, start: int, stop: int) -> int:
    """The slot of a stretch of text in a table, or -1."""
    if stop - start > LONGEST_LISTED:
        return -1
    key = key_of(_hash(points, start, stop))
    slot = slot_of(table, key, len(table))
    return slot if table[slot] == key else -1


@compiled
def _prefix(points: np.ndarray, start: int, stop: int, kinds: np.ndarray) -> int:
    """Characters of the prefix of a chunk, or 0."""
    first = points[start]
    if kinds[first] & PREFIX:
        return 1
    if first == _PLUS:
        return 0 if start + 1 < stop and kinds[points[start + 1]] & DIGIT else 1
    dots = 0
    while start + dots < stop and points[start + dots] == _STOP:
        dots += 1
    return dots if dots > 1 else 0


@compiled
def _suffix(points: np.ndarray, start: int, stop: int, kinds: np.ndarray, units: np.ndarray) -> int:
    """Characters of the suffix of a chunk, or 0; the pattern looks no further back than `start`."""
    if start >= stop:
        return 0
    last = points[stop - 1]
    if last == _STOP:
        dots = 1
        while stop - dots > start and points[stop - dots - 1] == _STOP:
            dots += 1
        if dots > 1:
            return dots
        if stop - 2 < start:
            return 0
        if kinds[points[stop - 2]] & BEFORE_STOP:
            return 1
        pair = stop - 3 >= start and kinds[points[stop - 2]] & UPPER and kinds[points[stop - 3]] & UPPER
        return 1 if pair else 0
    if (last in (_SMALL_S, _LARGE_S)) and stop - 2 >= start and kinds[points[stop - 2]] & QUOTE:
        return 2
    if kinds[last] & SUFFIX:
        return 1
    if last == _PLUS:
        return 1 if stop - 2 >= start and kinds[points[stop - 2]] & DIGIT else 0
    for length in range(1, min(_LONGEST_UNIT, stop - start - 1) + 1):
        if kinds[points[stop - length]] & DIGIT:
            return 0
        if kinds[points[stop - length - 1]] & DIGIT:
            return length if _find(units, points, stop - length, stop) >= 0 else 0
    return 0


@compiled
def _infix(points: np.ndarray, place: int, stop: int, kinds: np.ndarray) -> int:
    """Characters of the infix at a place inside a chunk, or 0."""
    point, before = points[place], kinds[points[place - 1]]
    after = kinds[points[place + 1]]
    power = before & DIGIT and point in (_PLUS, _HYPHEN, _STAR, _CARET)
    if power and (after & DIGIT or points[place + 1] == _HYPHEN):
        return 1
    if point == _STOP:
        dots = 1
        while place + dots < stop and points[place + dots] == _STOP:
            dots += 1
        if dots > 1:
            return dots
        return 1 if before & LEFT_OF_STOP and after & RIGHT_OF_STOP else 0
    if point == _COMMA:
        return 1 if before & LETTER and after & LETTER else 0
    if not before & (LETTER | DIGIT):
        return 0
    if point in (_HYPHEN, _EN_DASH, _EM_DASH, _TILDE):
        if after & LETTER:
            return 1
        length = 1
        while length < 4 and place + length < stop and points[place + length] == point:
            length += 1
        most = 3 if point == _HYPHEN else 2 if point == _EM_DASH else 1
        inside = 1 < length <= most and place + length < stop and kinds[points[place + length]] & LETTER
        return length if inside else 0
    if point in (_COLON, _LESS, _MORE, _EQUALS, _SLASH):
        return 1 if after & LETTER else 0
    return 0


@compiled
def _may_be_url(points: np.ndarray, start: int, stop: int, kinds: np.ndarray) -> bool:
    """Whether a stretch may be a URL: it has a full stop, two small letters and an end or :/?#, or is like an address.

    An address of four numbers has three full stops.
    """
    dots, digits = 0, False
    for place in range(start, stop):
        digits |= (kinds[points[place]] & DIGIT) != 0
        if points[place] != _STOP:
            continue
        dots += 1
        end = place + 1
        while end < stop and kinds[points[end]] & LOWER:
            end += 1
        if end - place > 2:
            if end == stop:
                return True
            point = points[end]
            if point in (_COLON, _SLASH, _QUESTION, _HASH):
                return True
    return dots >= 3 and digits


@compiled
def plain_cuts(
    points: np.ndarray,
    start: int,
    stop: int,
    kinds: np.ndarray,
    exceptions: np.ndarray,
    known: np.ndarray,
    units: np.ndarray,
    pairs: np.ndarray,
) -> np.uint64:
    """Where a chunk of 1 to 64 characters is cut, a bit for each first character of a word; 0 if that isn't plain."""
    for place in range(start, stop):
        if points[place] >= POINTS or not kinds[points[place]] & PLAIN:
            return np.uint64(0)
    cuts, one = np.uint64(0), np.uint64(1)
    first, last, size, found = start, stop, 0, -1
    while first < last and last - first != size:
        found = _find(exceptions, points, first, last)
        if found >= 0:
            break
        size = last - first
        before = _prefix(points, first, last, kinds)
        if before and first + before < last:
            found = _find(exceptions, points, first + before, last)
            if found >= 0:
                cuts |= one << np.uint64(first - start)
                first += before
                break
        after = _suffix(points, first + before, last, kinds, units)
        if after and last - after > first:
            found = _find(exceptions, points, first, last - after)
            if found >= 0:
                last -= after
                cuts |= one << np.uint64(last - start)
                break
        if before and after and before + after <= last - first:
            cuts |= one << np.uint64(first - start)
            first += before
            last -= after
            cuts |= one << np.uint64(last - start)
        elif before:
            cuts |= one << np.uint64(first - start)
            first += before
        elif after:
            last -= after
            cuts |= one << np.uint64(last - start)
    if first < last:
        if found >= 0:
            cuts |= known[found] << np.uint64(first - start)
        else:
            cuts |= one << np.uint64(first - start)
            if _may_be_url(points, first, last, kinds):
                return np.uint64(0)
            place = first + 1
            while place < last - 1:
                length = _infix(points, place, last, kinds)
                if length:
                    cuts |= one << np.uint64(place - start)
                    place += length
                    cuts |= one << np.uint64(place - start)
                else:
                    place += 1
    return cuts if _stays_apart(points, start, stop, cuts, pairs) else np.uint64(0)


@compiled
def _stays_apart(points: np.ndarray, start: int, stop: int, cuts: np.uint64, pairs: np.ndarray) -> bool:
    """Whether no two words begin an exception that has to be put together again."""
    if cuts == np.uint64(1):
        return True
    last, begin, count = np.uint64(0), start, 0
    for place in range(start + 1, stop + 1):
        if place < stop and not (cuts >> np.uint64(place - start)) & np.uint64(1):
            continue
        hashed = _hash(points, begin, place)
        if count:
            key = key_of(_pair_hash(last, hashed))
            if pairs[slot_of(pairs, key, len(pairs))] == key:
                return False
        last, begin, count = hashed, place, count + 1
    return True

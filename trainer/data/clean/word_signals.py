"""Counts over a text's words and runs of words (n-grams), by compiled code: Gopher's, as datatrove has them.

Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher", appendix A1. Characters
in the most frequent n-gram count the blanks between its words; those in repeated n-grams don't.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.data.clean.characters import ALPHABETIC, PUNCTUATION, character_classes
from trainer.data.clean.hashes import BASE, extended, hash_of, key_of, slot_of, table_size
from trainer.data.clean.words import WordSpans
from trainer.data.compiled import compiled

TOP = (2, 3, 4)  # sizes of the n-grams of which the most frequent counts
REPEATED = (5, 6, 7, 8, 9, 10)  # sizes of those of which all repeated ones count
NAMES = (
    "words",
    "plain_words",  # with a character that is no punctuation
    "plain_word_characters",
    "alphabetic_words",  # with a letter
    "stop_words",  # how many of the stop words occur
    "longest_word",  # characters
)
GRAM_NAMES = (
    *(f"top_{size}_gram_characters" for size in TOP),
    *(f"repeated_{size}_gram_characters" for size in REPEATED),
)
IS_PLAIN, IS_ALPHABETIC = 1, 2
_POWERS = np.array([pow(int(BASE), exponent, 2**64) for exponent in range(64)], np.uint64)
_WORDS, _PLAIN, _PLAIN_CHARS, _ALPHABETIC, _STOP, _LONGEST = range(len(NAMES))


def stop_word_table(words: tuple[str, ...]) -> np.ndarray:
    """The hashes of stop words, for `word_signals`: (words,) uint64."""
    return np.array([hash_of(word) for word in words], np.uint64)


@dataclass(frozen=True)
class WordTable:
    """What a text's words are, character by character: looked at once, whoever counts them."""

    hashes: np.ndarray  # (words,) uint64
    lengths: np.ndarray  # (words,) int64, in characters
    kinds: np.ndarray  # (words,) uint8: IS_PLAIN has a character that is no punctuation, IS_ALPHABETIC a letter


def word_table(points: np.ndarray, words: WordSpans) -> WordTable:
    """The words of a text."""
    return WordTable(*_look_at(points, character_classes(), words.starts, words.stops))


def word_signals(words: WordTable, stop_words: np.ndarray) -> dict[str, int]:
    """The counts of a text's words, by NAMES."""
    counts = _count_words(words.hashes, words.lengths, words.kinds, stop_words)
    return dict(zip(NAMES, counts.tolist(), strict=True))


def gram_signals(words: WordTable) -> dict[str, int]:
    """The counts of a text's n-grams, by GRAM_NAMES; 0 of sizes for which there are too few words."""
    return dict(zip(GRAM_NAMES, _count_grams(words.hashes, words.lengths, _POWERS).tolist(), strict=True))


@compiled
def _look_at(
    points: np.ndarray, classes: np.ndarray, starts: np.ndarray, stops: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The hash, length and kinds of each word."""
    total = len(starts)
    hashes, lengths, found = np.empty(total, np.uint64), np.empty(total, np.int64), np.empty(total, np.uint8)
    for word in range(total):
        hashed, kinds, plain = np.uint64(0), np.uint16(0), False
        for place in range(starts[word], stops[word]):
            kind = classes[points[place]]
            kinds |= kind
            plain |= (kind & PUNCTUATION) == 0
            hashed = extended(hashed, points[place])
        hashes[word], lengths[word] = hashed, stops[word] - starts[word]
        found[word] = IS_PLAIN * plain | IS_ALPHABETIC * ((kinds & ALPHABETIC) != 0)
    return hashes, lengths, found


@compiled
def _count_words(hashes: np.ndarray, lengths: np.ndarray, kinds: np.ndarray, stop_words: np.ndarray) -> np.ndarray:
    counts = np.zeros(len(NAMES), np.int64)
    size = table_size(len(stop_words))
    table = np.zeros(size, np.uint64)
    for hashed in stop_words:
        key = key_of(hashed)
        table[slot_of(table, key, size)] = key
    seen = np.zeros(size, np.bool_)
    counts[_WORDS] = len(hashes)
    for word in range(len(hashes)):
        length, kind = lengths[word], kinds[word]
        if kind & IS_PLAIN:
            counts[_PLAIN] += 1
            counts[_PLAIN_CHARS] += length
        counts[_ALPHABETIC] += (kind & IS_ALPHABETIC) != 0
        counts[_LONGEST] = max(counts[_LONGEST], length)
        key = key_of(hashes[word])
        slot = slot_of(table, key, size)
        if table[slot] == key and not seen[slot]:
            seen[slot] = True
            counts[_STOP] += 1
    return counts


@compiled
def _power(exponent: int, base_powers: np.ndarray) -> np.uint64:
    """BASE to the power of a word's length."""
    power = base_powers[exponent % len(base_powers)]
    for _ in range(exponent // len(base_powers)):
        power *= base_powers[-1] * BASE
    return power


@compiled
def _count_grams(hashes: np.ndarray, lengths: np.ndarray, base_powers: np.ndarray) -> np.ndarray:
    words = len(hashes)
    counts = np.zeros(len(GRAM_NAMES), np.int64)
    powers = np.empty(words, np.uint64)
    for word in range(words):
        powers[word] = _power(lengths[word], base_powers)
    grams, blanks = hashes.copy(), hashes.copy()  # of the n-gram that begins at a word, without and with blanks
    sizes = lengths.copy()
    space = extended(np.uint64(0), np.uint32(0x20))
    size = table_size(words)
    table = np.empty(size, np.uint64)
    slots, seen = np.empty(words, np.int64), np.empty(size, np.int64)
    for n in range(2, 11):
        left = words - n + 1
        if left <= 0:
            break
        for first in range(left):
            last = first + n - 1
            grams[first] = grams[first] * powers[last] + hashes[last]
            if n <= 4:
                blanks[first] = (blanks[first] * BASE + space) * powers[last] + hashes[last]
            sizes[first] += lengths[last]
        table[:] = 0
        if n <= 4:
            counts[n - 2] = _most_frequent(blanks, sizes, left, n, table, slots, seen)
        else:
            counts[n - 2] = _repeated(grams, sizes, left, n, table)
    return counts


@compiled
def _most_frequent(
    hashes: np.ndarray, sizes: np.ndarray, count: int, n: int, table: np.ndarray, slots: np.ndarray, seen: np.ndarray
) -> int:
    """Characters in all occurrences of the most frequent n-gram; of several, the one that comes first in the text."""
    most = 1
    for first in range(count):
        key = key_of(hashes[first])
        slot = slot_of(table, key, len(table))
        if table[slot] == key:
            seen[slot] += 1
            most = max(most, seen[slot])
        else:
            table[slot] = key
            seen[slot] = 1
        slots[first] = slot
    for first in range(count):
        if seen[slots[first]] == most:
            return (sizes[first] + n - 1) * most
    return 0


@compiled
def _repeated(hashes: np.ndarray, sizes: np.ndarray, count: int, n: int, table: np.ndarray) -> int:
    """Characters in n-grams that came before; after one of these the search goes on behind it."""
    characters, first = 0, 0
    while first < count:
        key = key_of(hashes[first])
        slot = slot_of(table, key, len(table))
        if table[slot] == key:
            characters += sizes[first]
            first += n
        else:
            table[slot] = key
            first += 1
    return characters

"""English texts → words, by compiled code that remembers how chunks between white space are split.

Few chunks are new in the middle of a text: those alone are split by the rules (pieces.py), 20 µs each. Where a chunk of
up to 64 characters is cut is one number, a bit for each character that a word begins with.
"""

from __future__ import annotations

import numpy as np

from trainer.data.clean.characters import SPACE, character_classes
from trainer.data.clean.english.pieces import english_pieces
from trainer.data.clean.english.plain_chunks import LONGEST_LISTED, plain_cuts, plain_rules
from trainer.data.clean.hashes import extended, key_of, slot_of
from trainer.data.compiled import compiled

SLOTS = 2**20  # of the table of chunks: 16 MB
MOST_CHUNKS = SLOTS // 2
LONGEST = 64  # characters of a chunk whose cuts are one number
MOST_LONG, MOST_REMEMBERED = 10_000, 1000  # longer ones that are remembered, and their characters


class EnglishChunks:
    """The splitter and what it remembers. Its answers don't depend on what it has seen."""

    def __init__(self) -> None:
        self._pieces = english_pieces()
        self._plain = plain_rules(self._pieces)
        self._forget()

    def split(self, text: str, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where words begin and end: (words,) int64 each."""
        classes = character_classes()
        starts, stops, cuts, missing = _find_chunks(
            points, classes, self._keys, self._cuts, self._used, *self._plain.arrays()
        )
        long: list[tuple[int, list[int]]] = []
        if len(missing):
            if self._used[0] + len(missing) > MOST_CHUNKS:
                self._forget()
            self._split_missing(text, starts, stops, cuts, missing, long)
            _remember(self._keys, self._cuts, self._used, points, starts, stops, cuts, missing)
        if long:
            chunks = np.array([chunk for chunk, _ in long])
            ends = np.cumsum([len(begins) for _, begins in long])
            begins = np.concatenate([begins for _, begins in long])
        else:
            chunks = ends = begins = np.empty(0, np.int64)
        found: tuple[np.ndarray, np.ndarray] = _words(starts, stops, cuts, chunks, ends, begins)
        return found

    def _split_missing(
        self,
        text: str,
        starts: np.ndarray,
        stops: np.ndarray,
        cuts: np.ndarray,
        missing: np.ndarray,
        long: list[tuple[int, list[int]]],
    ) -> None:
        """Fills in the cuts of the chunks that weren't known; those of chunks too long for a number go to `long`."""
        new: dict[str, int] = {}
        for chunk, start, stop in zip(missing.tolist(), starts[missing].tolist(), stops[missing].tolist(), strict=True):
            piece = text[start:stop]
            if stop - start > LONGEST:
                long.append((chunk, self._long_begins(piece)))
                continue
            if piece not in new:
                new[piece] = _cut(_begins(self._pieces.split(piece)))
            cuts[chunk] = new[piece]

    def _long_begins(self, chunk: str) -> list[int]:
        begins = self._long.get(chunk)
        if begins is None:
            begins = _begins(self._pieces.split(chunk))
            if len(chunk) < MOST_REMEMBERED and len(self._long) < MOST_LONG:
                self._long[chunk] = begins
        return begins

    def _forget(self) -> None:
        """Begins anew. A key and its cuts lie side by side, so that both come with one line of the cache."""
        slots = np.zeros((SLOTS, 2), np.uint64)
        self._keys, self._cuts = slots[:, 0], slots[:, 1]
        self._used = np.zeros(1, np.int64)  # slots
        self._long: dict[str, list[int]] = {}


def _cut(begins: list[int]) -> int:
    return sum(1 << begin for begin in begins)


def _begins(pieces: list[str]) -> list[int]:
    """The place of each piece in the chunk that they add up to."""
    begins, place = [], 0
    for piece in pieces:
        begins.append(place)
        place += len(piece)
    return begins


@compiled
def _remember(
    keys: np.ndarray,
    known: np.ndarray,
    used: np.ndarray,
    points: np.ndarray,
    starts: np.ndarray,
    stops: np.ndarray,
    cuts: np.ndarray,
    chunks: np.ndarray,
) -> None:
    """Puts these chunks into the table, as long as there is room, but for long ones."""
    for chunk in chunks:
        if stops[chunk] - starts[chunk] > LONGEST or used[0] >= MOST_CHUNKS:
            continue
        hashed = np.uint64(0)
        for place in range(starts[chunk], stops[chunk]):
            hashed = extended(hashed, points[place])
        key = key_of(hashed)
        slot = slot_of(keys, key, len(keys))
        used[0] += keys[slot] != key
        keys[slot] = key
        known[slot] = cuts[chunk]


@compiled
def _find_chunks(
    points: np.ndarray,
    classes: np.ndarray,
    keys: np.ndarray,
    known: np.ndarray,
    used: np.ndarray,
    kinds: np.ndarray,
    exceptions: np.ndarray,
    exception_cuts: np.ndarray,
    units: np.ndarray,
    pairs: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Chunks between white space, where each is cut, and the numbers of those that aren't known.

    ASCII letters alone, or ASCII digits alone, are one word unless they are an exception.
    """
    total = len(points)
    most = total // 2 + 1
    starts, stops = np.empty(most, np.int64), np.empty(most, np.int64)
    cuts, missing = np.zeros(most, np.uint64), np.empty(most, np.int64)
    count, unknown, place = 0, 0, 0
    while place < total:
        if classes[points[place]] & SPACE:
            place += 1
            continue
        start, hashed, letters, digits = place, np.uint64(0), True, True
        while place < total:
            point = points[place]
            if classes[point] & SPACE:
                break
            hashed = extended(hashed, point)
            lower = point | np.uint32(0x20)
            letters &= (lower >= 0x61) & (lower <= 0x7A)
            digits &= (point >= 0x30) & (point <= 0x39)
            place += 1
        starts[count], stops[count] = start, place
        if place - start > LONGEST:
            if letters or digits:
                cuts[count] = np.uint64(1)
            else:
                missing[unknown] = count
                unknown += 1
        else:
            key = key_of(hashed)
            if letters or digits:
                cuts[count] = np.uint64(1)
                if place - start <= LONGEST_LISTED:
                    slot = slot_of(exceptions, key, len(exceptions))
                    if exceptions[slot] == key:
                        cuts[count] = exception_cuts[slot]
                count += 1
                continue
            slot = slot_of(keys, key, len(keys))
            if keys[slot] == key:
                cuts[count] = known[slot]
            else:
                cut = plain_cuts(points, start, place, kinds, exceptions, exception_cuts, units, pairs)
                cuts[count] = cut
                if cut == np.uint64(0):
                    missing[unknown] = count
                    unknown += 1
                elif used[0] < MOST_CHUNKS:
                    keys[slot], known[slot] = key, cut
                    used[0] += 1
        count += 1
    return starts[:count], stops[:count], cuts[:count], missing[:unknown]


@compiled
def _words(
    starts: np.ndarray,
    stops: np.ndarray,
    cuts: np.ndarray,
    long_chunks: np.ndarray,
    long_ends: np.ndarray,
    long_begins: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Chunks and their cuts → words. `long_chunks` are those whose cuts are long_begins[…long_ends[i]]."""
    most = len(long_begins)
    for cut in cuts:
        while cut != np.uint64(0):
            cut &= cut - np.uint64(1)
            most += 1
    begins, ends = np.empty(most, np.int64), np.empty(most, np.int64)
    count, long = 0, 0
    for chunk in range(len(starts)):
        start, first = starts[chunk], count
        if long < len(long_chunks) and long_chunks[long] == chunk:
            for place in range(long_ends[long - 1] if long else 0, long_ends[long]):
                begins[count] = start + long_begins[place]
                count += 1
            long += 1
        else:
            cut, place = cuts[chunk], start
            while cut != np.uint64(0):
                if cut & np.uint64(1):
                    begins[count] = place
                    count += 1
                cut >>= np.uint64(1)
                place += 1
        for word in range(first, count - 1):
            ends[word] = begins[word + 1]
        ends[count - 1] = stops[chunk]
    return begins, ends

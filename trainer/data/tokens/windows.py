"""Long texts through `tokenizers`, in windows: it needs some 200 bytes of memory for each byte it encodes at once.

A window begins at a word (a pre-token) of the one before, some way before its end, so that both encode what lies
between. How a text begins (a prefix space) and ends (a look-ahead) makes them differ there; where they have come to
agree, token for token, the second takes over. Words are found from left to right and merges are local, so from there
on the second gives what the whole text would. Where they don't come to agree (a word longer than a window may be one
token), the overlap grows, then the window, and in the end the text is encoded at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

WINDOW = 2**18  # bytes
OVERLAP = 2**12  # bytes
AGREEMENT = 2**9  # bytes on either side of a joint in which both windows must give the same tokens


@dataclass(frozen=True)
class _Window:
    """Text [start, stop) and its tokens: (tokens,) ids, places of the text (bytes) where they begin, what may be cut.

    `joints` are tokens before which the text can be cut: they share no character with others. `words` begin a word.
    """

    start: int
    stop: int
    ids: np.ndarray
    begins: np.ndarray
    joints: np.ndarray
    words: np.ndarray

    def find(self, place: int) -> int:
        """The first token that begins at `place` or later."""
        return int(np.searchsorted(self.begins, place))


def encode_long(engine: Any, text: bytes, *, size: int = WINDOW, overlap: int = OVERLAP) -> list[np.ndarray]:
    """Ids of a UTF-8 `text`, the same as of encoding it at once, in pieces (tokens,) uint32."""
    pieces: list[np.ndarray] = []
    window, taken = _encode(engine, text, 0, size), 0  # tokens of `window` that came before or are in `pieces`
    while window.stop < len(text):
        joined = _go_on(engine, text, window, size, overlap)
        if joined is not None:
            following, leave, enter = joined
            pieces.append(window.ids[taken:leave].copy())
            window, taken = following, enter
            continue
        place = int(window.begins[taken]) if taken else 0
        window = _encode(engine, text, window.start, window.start + 4 * (window.stop - window.start))
        taken = window.find(place) if taken else 0
        if taken and (taken == len(window.ids) or window.begins[taken] != place):
            return [_encode(engine, text, 0, len(text)).ids]
    return [*pieces, window.ids[taken:]]


def _go_on(engine: Any, text: bytes, window: _Window, size: int, overlap: int) -> tuple[_Window, int, int] | None:
    """The window after `window`, the token where that one is left and the one where this is entered."""
    while 2 * overlap <= window.stop - window.start:
        start = _beginning(window, overlap)
        if start is not None:
            following = _encode(engine, text, start, start + max(size, 2 * overlap))
            joint = _joint(window, following)
            if joint is not None:
                return following, *joint
        overlap *= 4
    return None


def _beginning(window: _Window, overlap: int) -> int | None:
    """Where the next window may begin: at a word, or else a token, early in the last `overlap` bytes."""
    first, last = window.find(window.stop - overlap), window.find(window.stop - overlap // 2)
    for allowed in (window.words, window.joints):
        found = np.flatnonzero(allowed[first:last])
        if len(found):
            return int(window.begins[first + found[0]])
    return None


def _joint(window: _Window, following: _Window) -> tuple[int, int] | None:
    """The tokens of either window at a place about which both agree, a while after the second's start."""
    for place in window.begins[window.find(following.start + 2 * AGREEMENT) :]:
        if place + 2 * AGREEMENT > window.stop:
            return None
        leave, enter = window.find(place), following.find(place)
        if not window.joints[leave] or enter == len(following.ids) or not following.joints[enter]:
            continue
        return (leave, enter) if _agree(window, following, int(place)) else None
    return None


def _agree(window: _Window, following: _Window, place: int) -> bool:
    """Whether both have the same tokens around `place`."""
    here = slice(window.find(place - AGREEMENT), window.find(place + AGREEMENT))
    there = slice(following.find(place - AGREEMENT), following.find(place + AGREEMENT))
    same_ids = np.array_equal(window.ids[here], following.ids[there])
    return same_ids and np.array_equal(window.begins[here], following.begins[there])


def _encode(engine: Any, text: bytes, start: int, stop: int) -> _Window:
    """The window [start, stop) of `text`, a little shorter where it would end within a character."""
    stop = min(stop, len(text))
    while stop < len(text) and text[stop] & 0xC0 == 0x80:
        stop -= 1
    part = text[start:stop]
    encoding = engine.encode(part.decode(), add_special_tokens=False)
    ids = np.array(encoding.ids, np.uint32)
    spans = np.array(encoding.offsets, np.int64).reshape(-1, 2)  # characters
    words = np.array([-1 if word is None else word for word in encoding.word_ids], np.int64)
    places = np.append(np.flatnonzero((np.frombuffer(part, np.uint8) & 0xC0) != 0x80), len(part))  # of characters
    joints = np.ones(len(ids), dtype=bool)
    joints[1:] = (spans[1:, 0] >= spans[:-1, 1]) & (spans[1:, 0] > spans[:-1, 0])
    begins_word = joints.copy()
    begins_word[1:] &= words[1:] != words[:-1]
    return _Window(start, stop, ids, np.maximum.accumulate(places[spans[:, 0]]) + start, joints, begins_word)

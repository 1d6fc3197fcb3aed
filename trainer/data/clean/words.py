"""A text → the words that rules count, by one of several splitters. What a word is decides every verdict that counts
words: the splitter's name goes where the counts go.

    words = splitter("english").split(text, code_points(text))
    [text[a:b] for a, b in zip(words.starts, words.stops)]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np

from trainer.data.clean.characters import HAN, SPACE, character_classes
from trainer.data.clean.english.chunks import EnglishChunks
from trainer.data.compiled import compiled

SPLITTERS = ("english", "chinese", "characters", "spaces")


@dataclass(frozen=True)
class WordSpans:
    """Where the words of a text begin and end: (words,) int64 each, in characters, in order, never overlapping."""

    starts: np.ndarray
    stops: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    def texts(self, text: str) -> list[str]:
        """The words themselves."""
        return [text[start:stop] for start, stop in zip(self.starts.tolist(), self.stops.tolist(), strict=True)]


class Splitter(Protocol):
    """Splits texts into words."""

    def split(self, text: str, points: np.ndarray) -> WordSpans:
        """The words of a text, whose code points are `points`."""


@cache
def splitter(name: str) -> Splitter:
    """The splitter of a name in SPLITTERS; what it has seen it keeps, within bounds.

    english     as spaCy's tokenizer for English, which datatrove uses
    chinese     dictionary words as jieba cuts them, by rjieba
    characters  each Chinese character, and other runs between white space
    spaces      what stands between white space, as Gopher's paper counts
    """
    if name == "english":
        return _Compiled(EnglishChunks().split)
    if name == "chinese":
        from trainer.data.clean.chinese_words import split_chinese

        return _Compiled(split_chinese)
    return _Compiled(_split_characters if name == "characters" else _split_spaces)


@dataclass(frozen=True)
class _Compiled:
    function: Callable[[str, np.ndarray], tuple[np.ndarray, np.ndarray]]

    def split(self, text: str, points: np.ndarray) -> WordSpans:
        return WordSpans(*self.function(text, points))


def _split_spaces(text: str, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _runs(points, character_classes(), 0)


def _split_characters(text: str, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _runs(points, character_classes(), HAN)


@compiled
def _runs(points: np.ndarray, classes: np.ndarray, alone: int) -> tuple[np.ndarray, np.ndarray]:
    """Runs between white space; characters of the classes `alone` are words by themselves."""
    total = len(points)
    starts, stops = np.empty(total, np.int64), np.empty(total, np.int64)
    count, place = 0, 0
    while place < total:
        kind = classes[points[place]]
        if kind & SPACE:
            place += 1
            continue
        starts[count] = place
        place += 1
        if not kind & alone:
            while place < total and not classes[points[place]] & (SPACE | alone):
                place += 1
        stops[count] = place
        count += 1
    return starts[:count].copy(), stops[:count].copy()

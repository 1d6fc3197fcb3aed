"""Chinese → words as jieba cuts them, by rjieba (the same dictionary and hidden Markov model, in Rust).

rjieba leaves fund-raising together, which jieba cuts in three: words without Chinese characters are cut once more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from trainer.data.clean.characters import SPACE, character_classes
from trainer.data.text.libraries import library

# jieba 0.42.1: what finalseg makes a word outside Chinese, and the dictionary's words that it would cut.
_LATIN = re.compile(r"([a-zA-Z0-9]+(?:\.\d+)?%?)")
_HAN = re.compile("[\u4e00-\u9fd5]")
_IN_DICTIONARY = frozenset(("AT&T", "c#", "C#", "c++", "C++"))


def split_chinese(text: str, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where words begin and end: (words,) int64 each; white space is none."""
    words = library("rjieba", "data.clean.words=chinese").cut(text)
    lengths = np.fromiter(map(len, _as_jieba(words)), np.int64)
    stops = np.cumsum(lengths)
    starts = stops - lengths
    kinds = character_classes()
    is_word = (kinds[points[starts]] & SPACE) == 0 if len(starts) else np.empty(0, bool)
    return starts[is_word], stops[is_word]


def _as_jieba(words: list[str]) -> Iterator[str]:
    for word in words:
        if len(word) == 1 or "\u4e00" <= word[0] <= "\u9fd5" or word in _IN_DICTIONARY or _HAN.search(word):
            yield word
        else:
            yield from filter(None, _LATIN.split(word))

"""Chinese → words, by rjieba (jieba's dictionary and hidden Markov model, in Rust)."""

from __future__ import annotations

import numpy as np

from trainer.data.clean.characters import SPACE, character_classes
from trainer.data.text.libraries import library


def split_chinese(text: str, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where words begin and end: (words,) int64 each; white space is none."""
    words = library("rjieba", "data.clean.words=chinese").cut(text)
    stops = np.cumsum(np.fromiter(map(len, words), np.int64, len(words)))
    starts = stops - np.fromiter(map(len, words), np.int64, len(words))
    kinds = character_classes()
    words_only = (kinds[points[starts]] & SPACE) == 0 if len(starts) else np.empty(0, bool)
    return starts[words_only], stops[words_only]

"""Random choices of masked and span-corrupted rows: a function of (seed, position in the run), whoever draws them."""

from __future__ import annotations

import numpy as np

from trainer.data.tokens.order import derive_key

NOT_A_WORD = -1


def generator(what: str, seed: int, position: int) -> np.random.Generator:
    """Of the row at a position of a run, for one purpose. Philox takes the key as it is: streams don't meet."""
    return np.random.Generator(np.random.Philox(key=derive_key(what, seed, int(position))))


def choose_words(words: np.ndarray, share: float, draw: np.random.Generator) -> np.ndarray:
    """Which tokens to mask: whole words in random order, up to `share` of the tokens, one word at least; (time,) bool.

    `words`, (time,), numbers the word of each token, NOT_A_WORD where none may be masked. A word that would be too much
    is passed over (Devlin et al. 2019, create_pretraining_data.py).
    """
    counts = np.bincount(words[words != NOT_A_WORD], minlength=1)
    there = np.flatnonzero(counts)
    wanted = max(1, round(share * int(counts.sum())))
    chosen, taken = np.zeros(len(counts), bool), 0
    for word in draw.permutation(there).tolist():
        if taken and taken + counts[word] > wanted:
            continue
        chosen[word] = True
        taken += int(counts[word])
        if taken >= wanted:
            break
    return (words != NOT_A_WORD) & chosen[words]


def span_counts(length: int, share: float, mean: float) -> tuple[int, int]:
    """Tokens of a row that are dropped, and in how many spans (Raffel et al. 2020, section 3.1.4)."""
    dropped = min(max(round(length * share), 1), length - 1)
    spans = max(round(dropped / mean), 1)
    return dropped, min(spans, dropped, length - dropped)


def choose_spans(length: int, share: float, mean: float, draw: np.random.Generator) -> np.ndarray:
    """The span that each token of a row is in, from 0, or -1 where it is kept; (length,). A row begins with kept ones.

    As random_spans_noise_mask of t5.data.preprocessors: kept and dropped tokens are each cut at random into as many
    parts as there are spans, which alternate.
    """
    dropped, spans = span_counts(length, share, mean)
    kept_parts, dropped_parts = _cut(length - dropped, spans, draw), _cut(dropped, spans, draw)
    sizes = np.stack((kept_parts, dropped_parts), axis=1).ravel()
    numbers = np.stack((np.full(spans, -1), np.arange(spans)), axis=1).ravel()
    return np.repeat(numbers, sizes)


def _cut(count: int, parts: int, draw: np.random.Generator) -> np.ndarray:
    """`count` things in `parts` runs, none empty, all ways equally likely; their sizes."""
    edges = np.sort(draw.permutation(count - 1)[: parts - 1]) + 1
    return np.diff(np.concatenate(([0], edges, [count])))

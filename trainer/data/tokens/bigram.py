"""An interpolated bigram model: the yardstick that a trained model must beat."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trainer.data.tokens.dataset import Dataset

MOST_TOKENS = 2**26  # counted; the yardstick of a larger corpus rests on its first 67M tokens
CHUNK = 2**22


def bigram_loss(training: list[Dataset], validation: Dataset, *, rows: int) -> float:
    """Nats per token of the first `rows` rows of `validation`, counted on the training tokens.

    Witten-Bell interpolation (Chen and Goodman, 1998, section 2.5): P(w|v) = (c(vw) + t(v) P(w)) / (c(v) + t(v)),
    where t(v) counts the kinds of tokens seen after v, and P(w) is the unigram share with one added to each count.
    """
    vocab = validation.manifest.vocab_size
    unigrams = np.zeros(vocab, dtype=np.int64)
    keys, counts = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    for tokens in _chunks(training):
        unigrams += np.bincount(tokens[1:], minlength=vocab)
        keys, counts = _add(keys, counts, *np.unique(tokens[:-1] * vocab + tokens[1:], return_counts=True))
    first = keys // vocab
    followed = np.bincount(first, weights=counts, minlength=vocab)  # c(v)
    kinds = np.bincount(first, minlength=vocab)  # t(v)
    unigram = (unigrams + 1) / (unigrams.sum() + vocab)

    total = 0.0
    for number in range(rows):
        tokens = validation.gather_in_file_order(np.array([number]))[0].astype(np.int64)
        before, after = tokens[:-1], tokens[1:]
        pairs = before * vocab + after
        at = np.minimum(np.searchsorted(keys, pairs), len(keys) - 1)
        seen = np.where(keys[at] == pairs, counts[at], 0)
        weight = np.maximum(kinds[before], 1)  # a token never seen before falls back on the unigram
        total -= np.log((seen + weight * unigram[after]) / (followed[before] + weight)).sum()
    return float(total) / (rows * validation.sequence_length)


def _add(
    keys: np.ndarray, counts: np.ndarray, more_keys: np.ndarray, more_counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Two sorted tables of counts as one."""
    merged, inverse = np.unique(np.concatenate([keys, more_keys]), return_inverse=True)
    return merged, np.bincount(inverse, weights=np.concatenate([counts, more_counts])).astype(np.int64)


def _chunks(training: list[Dataset]) -> Iterator[np.ndarray]:
    """Training tokens, int64, in pieces that overlap by one token within a shard."""
    left = MOST_TOKENS
    for dataset in training:
        for shard in dataset.shards:
            for start in range(0, min(shard.tokens, left), CHUNK):
                yield shard.read(start, min(start + CHUNK + 1, shard.tokens)).astype(np.int64)
            left = max(0, left - shard.tokens)
            if not left:
                return

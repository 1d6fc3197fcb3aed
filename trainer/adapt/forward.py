"""Documents of a block through a model, several at a time, so that no result depends on workers or restarts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

BATCH_TOKENS = 4096  # that go through the model at once; a longer document goes alone


def padded_batches(pieces: Sequence[np.ndarray]) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Texts of tokens, (tokens,) each, in batches of like lengths: their numbers, and (texts, time) int64.

    They are padded at their ends, which a causal model doesn't see before it is there.
    """
    order = sorted(range(len(pieces)), key=lambda number: (-len(pieces[number]), number))
    first = 0
    while first < len(order):
        longest = len(pieces[order[first]])
        chosen = order[first : first + max(1, BATCH_TOKENS // max(1, longest))]
        batch = torch.zeros(len(chosen), longest, dtype=torch.int64)
        for row, number in enumerate(chosen):
            batch[row, : len(pieces[number])] = torch.from_numpy(pieces[number].astype(np.int64))
        yield chosen, batch
        first += len(chosen)

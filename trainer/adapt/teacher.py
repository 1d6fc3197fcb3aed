"""data.teacher: of each token, the k likeliest by a teacher, their log-probabilities, and the mass of all others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainer.adapt.forward import padded_batches
from trainer.data.tokens.blocks import Block
from trainer.model.build import LanguageModel
from trainer.run.frozen_model import FrozenModel


@dataclass(frozen=True)
class Likeliest:
    """How a teacher's probabilities are cut: at a temperature, over the data's vocabulary, the k largest."""

    top_k: int
    temperature: float
    vocab_size: int

    def __call__(self, logits: Tensor, place: slice | None = None) -> Tensor:
        """Of logits (n, …): log-probabilities (n, k), the others' mass (n, 1), the k tokens; fp32, (n, 2k + 1).

        The mass is summed by itself: 1 less the others would be rounded away.
        """
        logits = logits[:, : self.vocab_size] / self.temperature
        total = logits.logsumexp(dim=1, keepdim=True)
        values, tokens = logits.topk(self.top_k, dim=1)
        rest = logits.scatter(1, tokens, -torch.inf).logsumexp(dim=1, keepdim=True)
        return torch.cat((values - total, (rest - total).exp(), tokens.float()), dim=1)


@torch.no_grad()
def teacher_members(
    model: LanguageModel, place: FrozenModel, block: Block, device: torch.device, likeliest: Likeliest
) -> dict[str, np.ndarray]:
    """`teacher`, (tokens, k + 1) fp32, and `teacher_ids`, (tokens, k): what is said of a token before it is seen.

    Each document alone; one that is longer than what the teacher sees, in windows. A first token has zeros.
    """
    spans = [
        (start, min(start + place.window, end - 1))  # of inputs: a document's last token is only foretold
        for begin, end in _spans(block)
        for start in range(begin, end - 1, place.window)
    ]
    pieces = [block.tokens[start:stop] for start, stop in spans]
    classes = likeliest.top_k + 1
    found = np.zeros((len(block.tokens), classes), np.float32)
    ids = np.zeros((len(block.tokens), likeliest.top_k), block.tokens.dtype)
    for numbers, tokens in padded_batches(pieces):
        values = model(tokens.to(device), from_logits=likeliest).cpu().numpy()
        for row, number in enumerate(numbers):
            start, stop = spans[number]
            found[start + 1 : stop + 1] = values[row, : stop - start, :classes]
            ids[start + 1 : stop + 1] = values[row, : stop - start, classes:]
    return {"teacher": found, "teacher_ids": ids}


def _spans(block: Block) -> list[tuple[int, int]]:
    """First token and end of each document."""
    ends = np.cumsum(block.lengths.astype(np.int64))
    return list(zip((ends - block.lengths).tolist(), ends.tolist(), strict=True))

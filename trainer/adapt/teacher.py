"""data.teacher: of each token, the k likeliest by a teacher, their log-probabilities, and the mass of all others."""

from __future__ import annotations

import numpy as np
import torch

from trainer.adapt.forward import padded_batches
from trainer.data.tokens.blocks import Block
from trainer.model.build import LanguageModel
from trainer.run.frozen_model import FrozenModel


@torch.no_grad()
def teacher_members(
    model: LanguageModel, place: FrozenModel, block: Block, device: torch.device, *, top_k: int, temperature: float
) -> dict[str, np.ndarray]:
    """`teacher`, (tokens, k + 1) fp32, and `teacher_ids`, (tokens, k): what is said of a token before it is seen.

    Each document alone; one that is longer than what the teacher sees, in windows. A first token has zeros.
    """
    window = place.window
    spans = [
        (start, min(start + window, end - 1))  # of inputs: the last token is only asked about
        for begin, end in _spans(block)
        for start in range(begin, end - 1, window)
    ]
    pieces = [block.tokens[start:stop] for start, stop in spans]
    found = np.zeros((len(block.tokens), top_k + 1), np.float32)
    ids = np.zeros((len(block.tokens), top_k), block.tokens.dtype)

    def likeliest(logits: torch.Tensor, part: slice) -> torch.Tensor:
        return torch.cat(top_probabilities(logits, top_k, temperature), dim=1)

    for numbers, tokens in padded_batches(pieces):
        values = model(tokens.to(device), from_logits=likeliest).cpu().numpy()
        for row, number in enumerate(numbers):
            start, stop = spans[number]
            found[start + 1 : stop + 1] = values[row, : stop - start, : top_k + 1]
            ids[start + 1 : stop + 1] = values[row, : stop - start, top_k + 1 :]
    return {"teacher": found, "teacher_ids": ids}


def top_probabilities(logits: torch.Tensor, top_k: int, temperature: float) -> tuple[torch.Tensor, ...]:
    """Of logits (n, vocab_size): the log-probabilities of the k likeliest (n, k), the mass of the others (n, 1), and
    which those are (n, k), as fp32, which has all ids. The mass is summed by itself, not by what is missing to 1."""
    logits = logits / temperature
    total = logits.logsumexp(dim=1, keepdim=True)
    values, places = logits.topk(top_k, dim=1)
    rest = logits.scatter(1, places, -torch.inf).logsumexp(dim=1, keepdim=True)
    return values - total, (rest - total).exp(), places.float()


def _spans(block: Block) -> list[tuple[int, int]]:
    """First token and end of each document."""
    ends = np.cumsum(block.lengths.astype(np.int64))
    return list(zip((ends - block.lengths).tolist(), ends.tolist(), strict=True))

"""Continues several prompts at once, of any lengths and without padding.

Rows go in step from the shortest prompt on, and a row whose prompt is longer takes its next token from that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer.evaluate.sampling import UNBOUNDED, Sampling, sample
from trainer.model.build import LanguageModel
from trainer.model.hugging_face.headed import Seq2SeqLM

FILLER = 0  # what a row that has ended goes on with


@dataclass
class Continuation:
    """A row of a batch: `tokens` are what was sampled after `prompt`, without the token in `ends` that ended it.

    It ends as well after the token with which `stops` says so of all of them.
    """

    prompt: list[int]
    ends: Collection[int]
    sampling: Sampling
    tokens: list[int] = field(default_factory=list)
    ended: bool = False
    stops: Callable[[list[int]], bool] | None = None

    def __post_init__(self) -> None:
        self._generator = torch.Generator("cpu").manual_seed(self.sampling.seed)

    @property
    def is_open(self) -> bool:
        """Whether it goes on."""
        return not self.ended and len(self.tokens) < self.sampling.max_tokens

    def next(self, length: int, logits: Tensor) -> int:
        """The token at place `length` of the row: the prompt's, or one that is drawn."""
        if length < len(self.prompt):
            return self.prompt[length]
        if not self.is_open:
            return FILLER
        how = self.sampling
        token = sample(logits, how.temperature, how.top_k, how.top_p, self._generator)
        if token in self.ends:
            self.ended = True
            return FILLER
        self.tokens.append(token)
        self.ended = self.stops is not None and self.stops(self.tokens)
        return token


def continue_together(
    model: LanguageModel,
    rows: Sequence[Continuation],
    *,
    context_length: int,
    anyone: Callable[[bool], bool] = bool,
) -> None:
    """Samples each row to its end. As generate_tokens, row by row, but for rounding: products are of whole batches.

    Where the model is spread over ranks, `anyone` tells whether some rank has rows left, given whether this one has.
    An encoder–decoder's prompts are sources, which are never gone on with: those of one length go together.
    """
    if isinstance(model, Seq2SeqLM):
        for length in sorted({len(row.prompt) for row in rows}):
            same = [row for row in rows if len(row.prompt) == length]
            _continue(model, same, context_length=UNBOUNDED, anyone=anyone)
        return
    _continue(model, rows, context_length=context_length, anyone=anyone)


def _continue(
    model: LanguageModel, rows: Sequence[Continuation], *, context_length: int, anyone: Callable[[bool], bool]
) -> None:
    for row in rows:
        row.prompt = row.prompt[-context_length:]
    there = list(rows)
    length = min(len(row.prompt) for row in rows)
    seen = torch.tensor([row.prompt[:length] for row in rows])  # (rows, tokens since the last cut)
    fresh, cache = seen, model.new_cache(context_length)
    while True:
        if seen.shape[1] > context_length:
            seen = seen[:, -max(1, context_length // 2) :]
            fresh, cache = seen, model.new_cache(context_length)
        logits = _logits(model, fresh, cache)
        fresh = torch.tensor([[row.next(length, logits[place])] for place, row in enumerate(there)])
        length += 1
        left = [place for place, row in enumerate(there) if row.is_open]
        if not anyone(bool(left)):
            return
        left = left or [0]  # whose tokens nobody wants: others need this rank's part of the model
        seen = torch.cat((seen, fresh), dim=1)
        if len(left) <= len(there) // 2:  # the others would be computed for nothing
            there = [there[place] for place in left]
            seen, fresh = seen[left], fresh[left]
            cache.keep(left)


@torch.no_grad()
def _logits(model: LanguageModel, tokens: Tensor, cache: object) -> Tensor:
    """Logits of what follows each row. (rows, vocab_size) fp32 on the CPU."""
    device = next(model.parameters()).device
    logits: Tensor = model(tokens.to(device), cache=cache)
    return logits[:, -1].float().cpu()

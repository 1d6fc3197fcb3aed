"""Answers computed together, token by token: a row joins after any step, and leaves when it ends or is cancelled.

A step is a batch with one token of each row. Rows have caches of their own, of different lengths, without padding:
attention is each row's, all other products are the batch's. Those are of two rows at least and TOGETHER at most, within
which a CPU's libraries compute a row alike: an answer doesn't depend on what shares its batch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.evaluate.sampling import sample
from trainer.model.build import LanguageModel
from trainer.model.hugging_face.causal_lm import CausalLM
from trainer.model.hugging_face.key_cache import KeyCache, takes_keys
from trainer.serve.engines.cpu_products import TOGETHER
from trainer.serve.engines.engine import Ask, TokenInfo
from trainer.serve.watermark import Mark, favour

AT_ONCE = 512  # tokens of a prompt; a longer one is read in parts, between the steps of others

Told = tuple["AnswerRow", TokenInfo | Exception]


@dataclass(eq=False)
class AnswerRow:
    """One answer under way. `unread` are its tokens that aren't in the cache; `marker` favours by the token before."""

    ask: Ask
    cache: Any
    generator: torch.Generator
    marker: Any
    unread: list[int]
    last: int
    is_reading: bool = True  # its prompt


class BatchDecoder:
    """The model, and how rows of it go on. For one thread."""

    def __init__(self, model: LanguageModel, mark: Mark | None = None) -> None:
        self._model, self._mark = model.eval(), mark
        self._device = next(model.parameters()).device
        is_cpu = self._device.type == "cpu"
        self._together = 1 if isinstance(model, CausalLM) else TOGETHER if is_cpu else 1 << 20
        self._takes_keys = isinstance(model, CausalLM) and takes_keys(model)

    def begin(self, ask: Ask) -> AnswerRow:
        """A row that has its prompt to read."""
        seed = random.getrandbits(62) if ask.seed is None else ask.seed
        return AnswerRow(
            ask,
            cache=self._new_cache(len(ask.ids) + ask.max_tokens),
            generator=torch.Generator("cpu").manual_seed(seed),
            marker=self._mark.processor() if self._mark is not None else None,
            unread=list(ask.ids),
            last=ask.ids[-1],
        )

    def _new_cache(self, capacity: int) -> Any:
        if self._takes_keys:
            return KeyCache(self._model.config)
        return self._model.new_cache(capacity)

    def step(self, rows: Sequence[AnswerRow]) -> Iterator[Told]:
        """The next token of each row as it is computed; none of those whose prompts aren't read to their ends.

        What goes wrong with a row is told in its token's place.
        """
        going = [row for row in rows if not row.is_reading]
        for row in rows:
            if row.is_reading:
                yield from self._told([row], self._read)
        for first in range(0, len(going), self._together):
            yield from self._told(going[first : first + self._together], self._go_on)

    def _told(self, rows: list[AnswerRow], compute: Callable[[list[AnswerRow]], Tensor | None]) -> Iterator[Told]:
        try:
            logits = compute(rows)
        except Exception as error:
            yield from ((row, error) for row in rows)
            return
        if logits is not None:
            for row, of_row in zip(rows, logits, strict=False):  # a lone row has one beside it
                yield row, _next(row, of_row)

    @torch.inference_mode()
    def _read(self, rows: list[AnswerRow]) -> Tensor | None:
        """Logits after the prompt of the one row, (1, vocab_size) fp32 on the CPU; None before its last part."""
        [row] = rows
        part, row.unread = row.unread[:AT_ONCE], row.unread[AT_ONCE:]
        logits = self._model(torch.tensor([part], device=self._device), cache=row.cache)
        row.is_reading = bool(row.unread)
        return None if row.is_reading else logits[:, -1].float().cpu()

    @torch.inference_mode()
    def _go_on(self, rows: list[AnswerRow]) -> Tensor:
        """Logits after one more token of each row. (rows, vocab_size) fp32 on the CPU."""
        tokens = [row.unread.pop() for row in rows]
        caches = [row.cache for row in rows]
        if isinstance(self._model, CausalLM):
            [cache] = caches  # Hugging Face's own code goes on with one row
        else:
            if len(rows) == 1:
                tokens, caches = tokens * 2, [*caches, self._model.new_cache(1)]
            cache = self._model.join_caches(caches)
        logits = self._model(torch.tensor(tokens, device=self._device)[:, None], cache=cache)
        return logits[:, -1].float().cpu()


def _next(row: AnswerRow, logits: Tensor) -> TokenInfo:
    """Draws a row's next token from logits, (vocab_size,)."""
    ask = row.ask
    biased = logits if row.marker is None else favour(row.marker, [row.last], logits)
    token = sample(biased, ask.temperature, ask.top_k, ask.top_p, row.generator)
    row.unread, row.last = [token], token
    if not ask.logprobs:
        return TokenInfo(token)
    logprobs = logits.log_softmax(dim=-1)
    values, ids = logprobs.topk(min(ask.top, len(logprobs)))
    return TokenInfo(token, float(logprobs[token]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))

"""Computes what requests need, spread over ranks: batch by batch, none computed twice, none waited for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

from trainer.data.tokens.order import derive_key
from trainer.data.tokens.tokenizer import Tokenizer
from trainer.evaluate.batch_sampling import Continuation, continue_together
from trainer.evaluate.sampling import Sampling, eagerly
from trainer.evaluate.tasks.encode import PromptRow, Row
from trainer.evaluate.tasks.store import AnswerStore
from trainer.evaluate.tasks.work import Computed, TaskWork, batch_key
from trainer.model.loss import IGNORED
from trainer.ranks.mesh import Mesh

FILLER = Row.of([0, 0], 1)  # what a rank without a batch of its own computes while others compute theirs


@dataclass(frozen=True)
class Answering:
    """A model that answers, on one rank of `mesh`: in evaluation mode, whole or a part of it as training has it.

    `batch_tokens` bounds what goes through it at once. With a `store`, whatever was computed by an earlier process
    isn't computed again. `beat` is called before each batch. Every rank calls `find`, and gets what all have found.
    """

    model: Any
    tokenizer: Tokenizer
    mesh: Mesh
    batch_tokens: int
    store: AnswerStore | None = None
    beat: Callable[[], None] = lambda: None

    def find(self, work: TaskWork) -> Computed:
        """Computes all of `work`; the same on every rank."""
        known = self.store.read() if self.store else {}
        if self.store:
            self.mesh.barrier()  # before anyone adds to it
        losses, misses = torch.zeros(2, len(work.rows), dtype=torch.float64)
        for numbers, values in self._rows(work, known):
            losses[numbers], misses[numbers] = torch.tensor(values, dtype=torch.float64).T
        texts = dict(self._texts(work, known))
        if self.mesh.world_size > 1:
            for found in (losses, misses):
                torch.distributed.all_reduce(found, group=self.mesh.control)
            texts = {int(n): text for part in self.mesh.gather(list(texts.items())) for n, text in part}
        return Computed(
            losses.tolist(), [int(n) for n in misses.tolist()], [texts[n] for n in range(len(work.prompts))]
        )

    def _rows(self, work: TaskWork, known: dict[str, list[Any]]) -> Iterator[tuple[list[int], list[list[float]]]]:
        """Rows' numbers with loss and misses, those which this rank adds to the sum over ranks."""
        batches = [(numbers, [work.rows[n] for n in numbers]) for numbers in work.row_batches(self.batch_tokens)]
        with measuring(self.model) as misses:
            for (numbers, rows), together in self._share(batches, known, [FILLER]):
                self.model.least_tokens = max(len(each) * self._padded(each) for _, each in together)
                values = self._losses(rows, misses)
                if numbers and self.mesh.tensor_rank == 0:  # its neighbours have the same
                    self._keep(rows, values)
                    yield numbers, values
        if self.mesh.is_main:
            yield from ((numbers, known[key]) for numbers, rows in batches if (key := batch_key(rows)) in known)

    def _texts(self, work: TaskWork, known: dict[str, list[Any]]) -> Iterator[tuple[int, str]]:
        batches = [(numbers, [work.prompts[n] for n in numbers]) for numbers in work.prompt_batches(self.batch_tokens)]
        for (numbers, prompts), _ in self._share(batches, known, []):
            texts = self._continue(prompts)
            if numbers and self.mesh.tensor_rank == 0:
                self._keep(prompts, texts)
                yield from zip(numbers, texts, strict=True)
        if self.mesh.is_main:
            for numbers, prompts in batches:
                if (key := batch_key(prompts)) in known:
                    yield from zip(numbers, known[key], strict=True)

    def _share(self, batches: list[Any], known: dict[str, list[Any]], filler: list[Any]) -> Iterator[Any]:
        """This rank's batch and all of its round, by rounds: these are neighbours, alike in size; in the last one some
        ranks have a filler.

        Every rank has as many, for where the model is spread over them, each call is a call of all.
        """
        left = [batch for batch in batches if batch_key(batch[1]) not in known]
        size = self.mesh.data_size
        for first in range(0, len(left), size):
            mine = first + self.mesh.data_rank
            self.beat()
            yield left[mine] if mine < len(left) else ([], filler), left[first : first + size]

    def _keep(self, items: list[Any], values: list[Any]) -> None:
        if self.store and self.mesh.sequence_rank == 0:
            self.store.append(batch_key(items), values)

    @torch.no_grad()
    def _losses(self, rows: list[Row], misses: list[Tensor]) -> list[list[float]]:
        """Loss and misses of each row; with sequence parallelism, this rank's part of them."""
        longest = self._padded(rows) * self.mesh.sequence
        inputs = torch.zeros(len(rows), longest, dtype=torch.int64)
        targets = torch.full((len(rows), longest), IGNORED)
        for place, row in enumerate(rows):
            tokens, end = torch.from_numpy(row.tokens.astype(np.int64)), row.length
            inputs[place, :end] = tokens[:-1]
            targets[place, end - row.scored : end] = tokens[end - row.scored + 1 :]
        inputs, targets = (
            each.chunk(self.mesh.sequence, dim=1)[self.mesh.sequence_rank].contiguous().to(self.mesh.device)
            for each in (inputs, targets)
        )
        misses.clear()
        with eagerly():
            losses = self.model(inputs, targets)
        missed = torch.cat(misses).view(targets.shape).sum(dim=1)
        return torch.stack((losses.double().cpu(), missed.double().cpu()), dim=1).tolist()

    def _padded(self, rows: list[Row]) -> int:
        """Length of this rank's part of rows that go through the model together."""
        return -(-max(row.length for row in rows) // self.mesh.sequence)

    def _continue(self, prompts: list[PromptRow]) -> list[str]:
        """What follows each prompt. A rank without any takes part in the calls of others."""
        rows = [self._continuation(prompt) for prompt in prompts] or [Continuation([0], (), Sampling(max_tokens=0))]
        room = max(len(row.prompt) + row.sampling.max_tokens for row in rows)
        with eagerly():
            continue_together(self.model, rows, context_length=room, anyone=self._anyone)
        texts = [self.tokenizer.decode_plain(row.tokens) for row in rows[: len(prompts)]]
        return [_before(text, prompt.until) for text, prompt in zip(texts, prompts, strict=True)]

    def _continuation(self, prompt: PromptRow) -> Continuation:
        seed = derive_key("completion", 0, prompt.number) >> 1
        sampling = Sampling(prompt.max_tokens, prompt.temperature, prompt.top_k, prompt.top_p, seed)
        ends = (self.tokenizer.end_of_text_id,)

        def stops(tokens: list[int]) -> bool:
            text = self.tokenizer.decode_plain(tokens)
            return any(end in text for end in prompt.until)

        return Continuation(list(prompt.tokens), ends, sampling, stops=stops)

    def _anyone(self, own: bool) -> bool:
        """Whether a rank has something left to generate: all go on together until none has."""
        if self.mesh.world_size == 1:
            return own
        left = torch.tensor(int(own))
        torch.distributed.all_reduce(left, op=torch.distributed.ReduceOp.MAX, group=self.mesh.control)
        return bool(left.item())


@contextlib.contextmanager
def measuring(module: Any) -> Iterator[list[Tensor]]:
    """Where the model's losses are plain fp32 log-likelihoods; yields what its calls fill with whether targets, flat,
    aren't the likeliest token."""
    plain, tokens = module.measure, getattr(module, "least_tokens", 0)
    misses: list[Tensor] = []

    def measure(logits: Tensor, targets: Tensor, z_loss: float) -> Tensor:
        likelihoods = F.log_softmax(logits.float(), dim=-1)
        counted = targets != IGNORED
        misses.append((likelihoods.argmax(dim=-1) != targets) & counted)
        picked = likelihoods.gather(-1, targets.clamp(min=0)[:, None])[:, 0]
        return torch.where(counted, -picked, 0.0)

    module.measure = measure
    try:
        yield misses
    finally:
        module.measure, module.least_tokens = plain, tokens


def _before(text: str, until: tuple[str, ...]) -> str:
    for end in until:
        text = text.split(end)[0]
    return text

"""What is to be computed for requests: distinct rows and prompts, in batches that depend on nothing but them.

Neither the number of ranks nor what is finished already changes a batch, so an answer is the same to the bit wherever
and whenever it is computed on a device.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed
import xxhash

from trainer.errors import InputError
from trainer.evaluate.tasks.encode import Asked, PromptRow, RequestEncoder, Row
from trainer.evaluate.tasks.request import Answer, Request, Rolling
from trainer.ranks.mesh import Mesh

NUMBERS_PER_CALL = 2**26  # of a broadcast


@dataclass(frozen=True)
class TaskWork:
    """Distinct rows and prompts, the longest first; each is computed once, however many requests need it."""

    rows: list[Row]
    prompts: list[PromptRow]

    def row_batches(self, batch_tokens: int) -> list[list[int]]:
        """Numbers of rows that go through the model together: `batch_tokens` with padding at most, or one row."""
        return _batches([row.length for row in self.rows], batch_tokens)

    def prompt_batches(self, batch_tokens: int) -> list[list[int]]:
        """Numbers of prompts that are continued together."""
        return _batches([len(prompt.tokens) + prompt.max_tokens for prompt in self.prompts], batch_tokens)


@dataclass(frozen=True)
class Computed:
    """What was computed: of each row its loss in nats and the targets that aren't the likeliest token; texts."""

    losses: list[float]
    misses: list[int]
    texts: list[str]


@dataclass(frozen=True)
class EncodedRequests:
    """Requests, and the work whose results answer them; rank 0 alone holds them."""

    requests: list[Request]
    asked: list[Asked]
    work: TaskWork

    def answers(self, found: Computed) -> list[Answer]:
        """An answer for each request, in their order."""
        rows = {row: number for number, row in enumerate(self.work.rows)}
        prompts = {prompt: number for number, prompt in enumerate(self.work.prompts)}
        answers: list[Answer] = []
        for request, asked in zip(self.requests, self.asked, strict=True):
            if isinstance(asked, PromptRow):
                answers.append(found.texts[prompts[asked]])
            elif isinstance(request, Rolling):
                answers.append(0.0 - sum(found.losses[rows[row]] for row in asked))
            else:
                (number,) = (rows[row] for row in asked)
                answers.append((0.0 - found.losses[number], found.misses[number] == 0))
        return answers


def encode_requests(requests: Sequence[Request], encoder: RequestEncoder, names: Iterable[str]) -> EncodedRequests:
    """Encodes requests. InputError names the task (`names`, one for each request) of one that can't be asked."""
    asked: list[Asked] = []
    for request, name in zip(requests, names, strict=True):
        try:
            asked.append(encoder.encode(request))
        except InputError as error:
            raise InputError(f"{name}: {error}.") from error
    rows = {row for each in asked if not isinstance(each, PromptRow) for row in each}
    prompts = {each for each in asked if isinstance(each, PromptRow)}
    work = TaskWork(
        sorted_rows(rows),
        sorted(prompts, key=lambda prompt: (-len(prompt.tokens) - prompt.max_tokens, prompt)),
    )
    return EncodedRequests(list(requests), asked, work)


def sorted_rows(rows: Iterable[Row]) -> list[Row]:
    """Distinct rows in the order in which they are computed."""
    return sorted(set(rows), key=lambda row: (-row.length, row))


def spread_work(work: TaskWork | None, mesh: Mesh) -> TaskWork:
    """Rank 0's work, on every rank."""
    if mesh.world_size == 1:
        assert work is not None
        return work
    sizes, tokens = [], np.zeros(0, np.int32)
    if work is not None:
        sizes = [(row.length + 1, row.scored) for row in work.rows]
        tokens = np.frombuffer(bytearray().join(row.packed for row in work.rows), np.int32)
    heads = _broadcast(np.array(sizes, np.int32).reshape(-1), mesh)
    tokens = _broadcast(tokens, mesh)
    prompts: Any = mesh.from_main([list(astuple(prompt)) for prompt in work.prompts] if work is not None else None)
    rows, start = [], 0
    for length, scored in heads.reshape(-1, 2).tolist():
        rows.append(Row(tokens[start : start + length].tobytes(), scored))
        start += length
    return TaskWork(rows, [PromptRow(tuple(ids), tuple(until), *rest) for ids, until, *rest in prompts])


def batch_key(items: Sequence[Row | PromptRow]) -> str:
    """Names a batch by its content."""
    return xxhash.xxh3_128_hexdigest(repr([astuple(item) for item in items]).encode())


def _batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Neighbours in the order, which is by length: the first is the longest, to which others are padded."""
    batches: list[list[int]] = []
    start = 0
    while start < len(lengths):
        size = max(1, batch_tokens // max(1, lengths[start]))
        batches.append(list(range(start, min(start + size, len(lengths)))))
        start += size
    return batches


def _broadcast(values: np.ndarray, mesh: Mesh) -> np.ndarray:
    size = mesh.from_main(int(values.size))
    content = torch.from_numpy(values) if mesh.is_main else torch.zeros(size, dtype=torch.int32)
    for piece in content.split(NUMBERS_PER_CALL):
        torch.distributed.broadcast(piece, src=0, group=mesh.control)
    return content.numpy()

"""The loss on a validation set: the same rows and the same sum at any world size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed

from trainer.config import Evaluate
from trainer.data.tokens.dataset import Dataset
from trainer.data.tokens.loader import Batch, validation_batches
from trainer.engine.sequence import own_part
from trainer.ranks.mesh import Mesh
from trainer.track.metrics import bits_per_byte

# Batch → the sum of losses of each row, (rows,) fp32
Forward = Callable[[Batch], torch.Tensor]


@dataclass(frozen=True)
class Score:
    """`loss` in nats per token over `tokens` targets."""

    loss: float
    bits_per_byte: float
    tokens: int


@torch.no_grad()
def score(forward: Forward, dataset: Dataset, settings: Evaluate, mesh: Mesh, *, mask_documents: bool) -> Score:
    """Scores the first `settings.rows` rows (0: all) of a validation set; every rank calls it and gets the result.

    Row losses are laid into one vector and summed in row order in double precision, so the world size doesn't show.
    Bits per byte take the dataset's own ratio of tokens to bytes.
    """
    rows = min(settings.rows or dataset.rows.total, dataset.rows.total)
    losses = torch.zeros(rows, dtype=torch.float64)
    batches = validation_batches(
        dataset,
        rows=rows,
        micro_batch_size=settings.micro_batch_size,
        rank=mesh.data_rank,
        world_size=mesh.data_size,
        mask_documents=mask_documents,
    )
    for first, batch in batches:
        values = forward(own_part(batch, mesh).to(mesh.device)).double().cpu()
        kept = max(0, min(len(values), rows - first))
        losses[first : first + kept] = values[:kept]
    if mesh.tensor_rank > 0:
        losses.zero_()  # the same as their neighbour's: counted once
    if mesh.world_size > 1:
        torch.distributed.all_reduce(losses, group=mesh.control)
    tokens = rows * dataset.sequence_length
    loss = losses.sum().item() / tokens
    manifest = dataset.manifest
    bpb = bits_per_byte(nats_per_token=loss, tokens=manifest.tokens, text_bytes=manifest.text_bytes)
    return Score(loss, bpb, tokens)

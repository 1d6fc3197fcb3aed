"""Sequence parallelism: each rank takes a part of every row, and attention is on whole rows for a part of the heads.

DeepSpeed-Ulysses (Jacobs et al., 2023). Two exchanges among the ranks of a row surround attention: parts of rows with
all heads ↔ whole rows with parts of the heads, which under tensor parallelism are those of a rank's slices. To
DeepSpeed's engine these ranks are data-parallel ones like any other: their gradients are of parts of one sum, so that
the sum over all ranks is the gradient at every ZeRO stage. (Told of them by an mpu it scales by other rules at other
stages.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from trainer.data.tokens.loader import Batch
from trainer.model.build import LanguageModel
from trainer.model.decoder import Mix, Transformer
from trainer.ranks.mesh import Mesh, own_group


def spread_sequence(model: LanguageModel, mesh: Mesh) -> None:
    """Makes the model take this rank's part of each row; every rank calls it. Nothing happens without neighbours."""
    if mesh.sequence == 1:
        return
    assert isinstance(model, Transformer)  # others are refused (trainer/model/hugging_face/folder.py)
    from deepspeed.sequence.layer import DistributedAttention

    def attend(queries: Tensor, keys: Tensor, values: Tensor, mix: Mix) -> Tensor:
        return mix(queries, keys, values)

    size, share = mesh.sequence, mesh.tensor * mesh.sequence
    places = [first + peer for first in range(0, mesh.world_size, share) for peer in range(mesh.tensor)]
    neighbours = own_group([range(place, place + share, mesh.tensor) for place in places])  # with the same slices
    distributed: Any = DistributedAttention(attend, neighbours, scatter_idx=2, gather_idx=1)

    def exchange(mix: Mix, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return distributed(queries, keys, values, 0, None, mix)

    model.spread_sequence(exchange, size)


def own_part(batch: Batch, mesh: Mesh) -> Batch:
    """This rank's part of every row of a batch: inputs and targets cut in time, documents whole."""
    if mesh.sequence == 1:
        return batch
    inputs = batch.inputs.chunk(mesh.sequence, dim=1)[mesh.sequence_rank].contiguous()
    targets = batch.targets.chunk(mesh.sequence, dim=1)[mesh.sequence_rank].contiguous()
    return replace(batch, inputs=inputs, targets=targets)

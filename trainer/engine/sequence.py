"""Sequence parallelism: each rank takes a part of every row, and attention is on whole rows for a part of the heads.

DeepSpeed-Ulysses (Jacobs et al., 2023). Two exchanges among the ranks of a row surround attention: parts of rows with
all heads ↔ whole rows with parts of the heads. To DeepSpeed's engine these ranks are data-parallel ones like any other:
their gradients are of parts of one sum, so that the sum over all ranks is the gradient at every ZeRO stage. (Told of
them by an mpu it scales by other rules at other stages.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch.distributed
from torch import Tensor

from trainer.data.tokens.loader import Batch
from trainer.model.build import LanguageModel
from trainer.model.decoder import Mix, Transformer
from trainer.ranks.mesh import Mesh


def spread_sequence(model: LanguageModel, mesh: Mesh) -> None:
    """Makes the model take this rank's part of each row; every rank calls it. Nothing happens without neighbours."""
    if mesh.sequence == 1:
        return
    assert isinstance(model, Transformer)  # others are refused (trainer/model/hugging_face/folder.py)
    from deepspeed.sequence.layer import DistributedAttention

    def attend(queries: Tensor, keys: Tensor, values: Tensor, mix: Mix) -> Tensor:
        return mix(queries, keys, values)

    distributed: Any = DistributedAttention(attend, _join_neighbours(mesh), scatter_idx=2, gather_idx=1)

    def exchange(mix: Mix, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return distributed(queries, keys, values, 0, None, mix)

    model.spread_sequence(exchange, mesh.sequence)


def _join_neighbours(mesh: Mesh) -> torch.distributed.ProcessGroup:
    """The group of the ranks that share this rank's rows."""
    rows = range(0, mesh.world_size, mesh.sequence)
    groups = [torch.distributed.new_group(list(range(first, first + mesh.sequence))) for first in rows]
    return groups[mesh.data_rank]


def own_part(batch: Batch, mesh: Mesh) -> Batch:
    """This rank's part of every row of a batch: inputs and targets cut in time, documents whole."""
    if mesh.sequence == 1:
        return batch
    inputs = batch.inputs.chunk(mesh.sequence, dim=1)[mesh.sequence_rank].contiguous()
    targets = batch.targets.chunk(mesh.sequence, dim=1)[mesh.sequence_rank].contiguous()
    return replace(batch, inputs=inputs, targets=targets)

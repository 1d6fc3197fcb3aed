"""What DeepSpeed's Muon needs around it: no compiler, and its state, for checkpoints. Clipping is in gradients.py."""

from __future__ import annotations

import importlib
import itertools
from typing import Any

import torch

from trainer.model.partition import Partition
from trainer.model.region import Region, Source


def import_uncompiled() -> None:
    """Imports DeepSpeed's Muon, whose Newton-Schulz steps are then taken as they are written; before DeepSpeed does.

    It would compile them for the first matrix, then anew for any shape. In bf16 these round differently, and which
    matrix a rank sees first follows from the layout of the run. Besides, stages 1 to 3 import Muon for any optimiser,
    and to ask for a compiled function imports torch's compiler, which takes seconds.
    """
    from deepspeed.runtime import compiler

    original = compiler.compile
    compiler.compile = lambda: lambda function: function
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.original_muon")
    finally:
        compiler.compile = original


def muon_with_adamw(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """DeepSpeed's Muon for the groups whose "use_muon" is true, and torch's AdamW for the others."""
    import_uncompiled()
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    return MuonWithAuxAdam(groups, adam_optimizer=torch.optim.AdamW, adam_optimizer_kwargs={"fused": True})


def holds_whole_momenta(engine: Any) -> bool:
    """Whether DeepSpeed keeps the momentum of every matrix that a rank's partition touches, whole and end to end.

    So it does at stages 1 and 2 in fp32; elsewhere momentum is laid out as the weights are.
    """
    return hasattr(engine.optimizer, "single_partition_of_fp32_groups")


def momentum_start(engine: Any, parameter: Any) -> int:
    """Where the whole momentum of `parameter` begins in its group's buffer."""
    matrices = engine.optimizer.params_in_partition[parameter._hp_mapping.param_group_index]
    before = itertools.takewhile(lambda other: other is not parameter, matrices)
    return sum(other.numel() for other in before)


def whole_momenta(engine: Any, group: int) -> torch.Tensor:
    """A buffer of zeros for the whole momenta of a group."""
    matrices = engine.optimizer.params_in_partition[group]
    flat = engine.optimizer.single_partition_of_fp32_groups[group]
    return flat.new_zeros(sum(matrix.numel() for matrix in matrices))


@torch.no_grad()
def fill_whole_momenta(engine: Any, partition: Partition, source: Source) -> None:
    """Sets every whole momentum from `source`, the parts of other ranks' partitions too."""
    zero = engine.optimizer
    for flat, matrices in zip(zero.single_partition_of_fp32_groups, zero.params_in_partition, strict=True):
        if matrices and getattr(matrices[0], "use_muon", False):
            buffer = zero.optimizer.state[flat]["momentum_buffer"]
            for matrix, part in zip(matrices, buffer.split([m.numel() for m in matrices]), strict=True):
                name = zero.param_names[matrix]
                held = Region.of_slice(partition.shapes[name], partition.slice_of(name))
                part.copy_(source(name, "momentum_buffer", held))

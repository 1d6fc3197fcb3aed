"""What DeepSpeed's Muon needs around it: no compiler, whole matrices under tensor parallelism, and its state.

Clipping is in gradients.py.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainer.engine.deepspeed.offload import is_offloaded
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


@dataclass(frozen=True)
class Cut:
    """How a matrix is cut among tensor-parallel ranks: along `dim`, evenly, by rank of the `group`."""

    dim: int
    group: Any

    def gather(self, own: torch.Tensor) -> torch.Tensor:
        """The whole matrix of everyone's slices; every rank of the group calls it."""
        slices = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size(self.group))]
        torch.distributed.all_gather(slices, own, group=self.group)
        return torch.cat(slices, self.dim)

    def own(self, whole: torch.Tensor) -> torch.Tensor:
        """This rank's slice of a whole matrix."""
        parts = torch.distributed.get_world_size(self.group)
        return whole.chunk(parts, self.dim)[torch.distributed.get_rank(self.group)].contiguous()


def orthogonalize_whole_matrices(model: nn.Module, partition: Partition) -> None:
    """Has Muon orthogonalize the matrices that tensor parallelism cut as wholes; after DeepSpeed's `initialize`.

    DeepSpeed would orthogonalize each slice by itself, which is another update. It hands on two marks of a parameter,
    one or the other, to where a matrix is updated; both are the Cut here. Experts are dealt out whole and need nothing.
    """
    from deepspeed.runtime.zero.muon import muon_optimizer, original_muon
    from deepspeed.utils import groups

    for name, parameter in model.named_parameters():
        held = partition.slice_of(name)
        if held is not None and getattr(parameter, "use_muon", False) and len(partition.shapes[name]) == 2:
            cut = Cut(held.dim, groups.get_tensor_model_parallel_group())
            parameter.muon_num_heads = parameter.is_expert_group = cut  # type: ignore[attr-defined]
    if not getattr(original_muon.muon_update, "gathers", False):
        original_muon.muon_update = muon_optimizer.muon_update = _gathering(original_muon.muon_update)


def _gathering(muon_update: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """DeepSpeed's muon_update, which of a matrix with a Cut gathers the look-ahead and keeps the momentum as slices."""

    def update(
        grad: torch.Tensor,
        momentum: torch.Tensor,
        beta: float = 0.95,
        is_expert_group: bool | Cut = False,
        num_heads: int | Cut | None = None,
        **options: Any,
    ) -> torch.Tensor:
        cut = num_heads if isinstance(num_heads, Cut) else is_expert_group
        if not isinstance(cut, Cut):
            return muon_update(grad, momentum, beta, is_expert_group=cut, num_heads=num_heads, **options)
        followed = momentum.lerp(grad, 1 - beta)
        ahead = cut.gather(grad.lerp(followed, beta).contiguous())
        momentum.copy_(torch.where(torch.isfinite(ahead).all(), followed, momentum))
        # without Nesterov's step, which is taken: momentum is then the look-ahead, whose mean with itself is itself
        return cut.own(muon_update(ahead, ahead.clone(), beta, nesterov=False, **options))

    update.gathers = True  # type: ignore[attr-defined]
    return update


def holds_whole_momenta(engine: Any) -> bool:
    """Whether DeepSpeed keeps the momentum of every matrix that a rank's partition touches, whole and end to end.

    So it does at stages 1 and 2 in fp32; elsewhere, and offloaded, momentum is laid out as the weights are.
    """
    return hasattr(engine.optimizer, "single_partition_of_fp32_groups") and not is_offloaded(engine)


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

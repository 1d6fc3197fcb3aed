"""What DeepSpeed's Muon needs around it: gradients measured and clipped before they are orthogonalized, and its state.

DeepSpeed 0.19.8 runs Newton-Schulz inside ZeRO, since the optimiser sees flat partitions only. At stages 1 to 3 it does
so before it takes the norm (stage_1_and_2.py, get_flat_partition; stage3.py, step), so its clipping would shrink the
orthogonal update, whose norm only tells how many singular values there are: where the gradients' norm was 1.6, the rate
of a small model fell to a 25th. `RawGradients` are the gradients before that. BF16_Optimizer, which DeepSpeed takes for
bf16 at stage 1, clips them first by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from trainer.config import Pretrain
from trainer.engine.mesh import Mesh
from trainer.engine.region import Region
from trainer.model.partition import Partition

if TYPE_CHECKING:
    from trainer.engine.fragments import Source


def deepspeed_clips(config: Pretrain) -> bool:
    """Whether DeepSpeed's own norm and clipping are of the gradients; if not, GradientGuard's are."""
    if config.parallel.zero_stage == 0:
        return False  # DeepSpeed's norm isn't to be had there
    return config.optimizer.name != "muon" or (config.train.precision == "bf16" and config.parallel.zero_stage == 1)


def uncompiled() -> Any:
    """A context in which Newton-Schulz runs as it is written.

    DeepSpeed compiles it for the first matrix, then anew for any shape. In bf16 these round differently, and which
    matrix a rank sees first follows from the layout of the run.
    """
    return torch.compiler.set_stance("force_eager")


class RawGradients:
    """A step's reduced gradients, before DeepSpeed's Muon orthogonalizes them; at stage 0 whatever the optimiser.

    At stages 1 and 2 orthogonalizing ends the last backward pass; it is held back until `release`.
    """

    def __init__(self, engine: Any, mesh: Mesh) -> None:
        self._engine = engine
        self._mesh = mesh
        self._stage = engine.zero_optimization_stage()
        self._held: dict[int, tuple[list[torch.Tensor], tuple[Any, ...], dict[str, Any]]] = {}
        self._flatten: Callable[..., Any] | None = None
        if self._stage in (1, 2):
            self._flatten = engine.optimizer.get_flat_partition
            engine.optimizer.get_flat_partition = self._hold

    def _hold(self, *arguments: Any, param_group_idx: int, **options: Any) -> list[torch.Tensor]:
        self._held[param_group_idx] = (self._engine.optimizer.all_grad_tensors[param_group_idx], arguments, options)
        return []

    def tensors(self) -> list[torch.Tensor]:
        """All gradients that this rank's step will read: the ones to scale."""
        if self._stage == 0:
            return [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        if self._stage == 3:
            return [part for parts in self._engine.optimizer.averaged_gradients.values() for part in parts]
        return [gradient for gradients, _, _ in self._held.values() for gradient in gradients]

    def norm(self) -> torch.Tensor:
        """Global norm of the gradients, on the device: the ranks' shares together, each element counted once."""
        if self._stage == 0:
            return self._norm_of_replicas()
        own = torch.nn.utils.get_total_norm(self._shares()).to(self._engine.device)
        square = own.float().square()
        torch.distributed.all_reduce(square)
        return square.sqrt()

    def _norm_of_replicas(self) -> torch.Tensor:
        """Stage 0: every data-parallel rank holds the same, and tensor-parallel peers slices of what is cut."""
        if self._mesh.tensor == 1:
            return torch.nn.utils.get_total_norm(self.tensors())
        from deepspeed.runtime.utils import is_model_parallel_parameter
        from deepspeed.utils import groups

        squares = []
        for cut in (True, False):
            parameters = [p for p in self._engine.module.parameters() if is_model_parallel_parameter(p) == cut]
            gradients = [p.grad for p in parameters if p.grad is not None]
            squares.append(torch.nn.utils.get_total_norm(gradients).square())
        torch.distributed.all_reduce(squares[0], group=groups.get_tensor_model_parallel_group())
        return (squares[0] + squares[1]).sqrt()

    def _shares(self) -> list[torch.Tensor]:
        """Stages 1 to 3: the parts of `tensors` that belong to this rank's partitions, without padding."""
        zero = self._engine.optimizer
        shares = []
        if self._stage == 3:
            from trainer.engine.fragments import partition_range

            for group, parts in zero.averaged_gradients.items():
                for parameter, part in zip(zero.fp16_groups[group], parts, strict=True):
                    shares.append(part.view(-1)[: partition_range(parameter)[1]])
            return shares
        for group, (gradients, _, _) in self._held.items():
            for parameter, gradient in zip(zero.params_in_partition[group], gradients, strict=True):
                address = parameter._hp_mapping.lp_fragment_address
                shares.append(gradient.reshape(-1).narrow(0, address.start, address.numel))
        return shares

    def release(self) -> None:
        """Lets DeepSpeed go on with the gradients as they are now: stages 1 and 2 orthogonalize here."""
        zero = self._engine.optimizer
        for group, (gradients, arguments, options) in self._held.items():
            assert self._flatten is not None
            zero.all_grad_tensors[group] = gradients
            zero.averaged_gradients[group] = self._flatten(*arguments, param_group_idx=group, **options)
            zero.all_grad_tensors[group] = None
        self._held.clear()


# ----------------------------------------------------------------------------------------------- momentum, stages 1, 2


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

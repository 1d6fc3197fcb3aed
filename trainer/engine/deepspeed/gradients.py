"""A step's gradients before the optimiser has them: their norm, and clipping where DeepSpeed's wouldn't do.

At stage 0 DeepSpeed's norm isn't to be had in fp32. With Muon it is of something else: DeepSpeed 0.19.8 runs
Newton-Schulz inside ZeRO, since the optimiser sees flat partitions only; at stages 1 to 3 it does so before it takes
the norm (stage_1_and_2.py, get_flat_partition; stage3.py, step). Its clipping would shrink the orthogonal update, whose
norm only tells how many singular values there are: where the gradients' norm was 1.6, the rate of a small model fell to
a 25th. BF16_Optimizer, which DeepSpeed takes for bf16 at stage 1 without offload, clips gradients first by itself.
Offloaded gradients lie in host memory in fp32, as the flat partitions that are stepped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from trainer.config import Pretrain
from trainer.engine.deepspeed.fragments import flat_partitions, partition_range, trained_parameters
from trainer.engine.deepspeed.offload import is_offloaded
from trainer.ranks.mesh import Mesh

CHUNK = 1 << 16  # elements


def deepspeed_clips(config: Pretrain) -> bool:
    """Whether DeepSpeed's own norm and clipping are of the gradients; if not, GradientGuard's are."""
    if config.parallel.zero_stage == 0:
        return False  # DeepSpeed's norm isn't to be had there
    if config.optimizer.name != "muon":
        return True
    return config.train.in_bf16 and config.parallel.zero_stage == 1 and config.parallel.offload == "none"


def gradient_shares(engine: Any, raw: RawGradients | None) -> Iterator[tuple[Any, torch.Tensor]]:
    """A parameter and its reduced gradient, or this rank's share of it without padding, before the optimiser has it.

    All of them, once, at any stage; where the last backward pass has ended. `raw` are those that Muon waits for.
    """
    zero = engine.optimizer
    stage = engine.zero_optimization_stage()
    if stage == 0:
        yield from ((p, p.grad) for p in engine.module.parameters() if p.grad is not None)
    elif raw is not None and raw.offloaded:
        yield from raw.held_shares()
    elif hasattr(zero, "bf16_groups"):  # BF16_Optimizer
        for parameter in (p for group in zero.bf16_groups for p in group if p._hp_mapping is not None):
            address = parameter._hp_mapping.hp_fragment_address
            flat = zero.fp32_groups_gradient_flat_partition[parameter._hp_mapping.param_group_index]
            yield parameter, flat.narrow(0, address.start, address.numel)
    elif stage < 3:
        if raw is not None:
            yield from raw.held_shares()
        for group, gradients in zero.averaged_gradients.items():
            yield from zip(zero.params_in_partition[group], gradients or (), strict=False)  # it may end in padding
    else:
        for group, parts in zero.averaged_gradients.items():
            for parameter, part in zip(zero.fp16_groups[group], parts, strict=True):
                yield parameter, part.view(-1)[: partition_range(parameter)[1]]


class RawGradients:
    """A step's reduced gradients, before DeepSpeed's Muon orthogonalizes them; at stage 0 whatever the optimiser.

    At stages 1 and 2 orthogonalizing ends the last backward pass; it is held back until `release`. Of offloaded
    gradients it begins DeepSpeed's step, at any stage.
    """

    def __init__(self, engine: Any, mesh: Mesh) -> None:
        self._engine = engine
        self._mesh = mesh
        self._stage = engine.zero_optimization_stage()
        self.offloaded = self._stage > 0 and is_offloaded(engine)
        self._held: dict[int, tuple[list[torch.Tensor], tuple[Any, ...], dict[str, Any]]] = {}
        self._flatten: Callable[..., Any] | None = None
        if self._stage in (1, 2) and not self.offloaded:
            self._flatten = engine.optimizer.get_flat_partition
            engine.optimizer.get_flat_partition = self._hold

    def _hold(self, *arguments: Any, param_group_idx: int, **options: Any) -> list[torch.Tensor]:
        self._held[param_group_idx] = (self._engine.optimizer.all_grad_tensors[param_group_idx], arguments, options)
        return []

    def tensors(self) -> list[torch.Tensor]:
        """All gradients that this rank's step will read: the ones to scale."""
        if self._stage == 0:
            return [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        if self.offloaded:
            return [flat.grad for flat in flat_partitions(self._engine) if flat.grad is not None]
        if self._stage == 3:
            return [part for parts in self._engine.optimizer.averaged_gradients.values() for part in parts]
        return [gradient for gradients, _, _ in self._held.values() for gradient in gradients]

    def norm(self) -> torch.Tensor:
        """Global norm of the gradients, on the device: the ranks' shares together, each element counted once."""
        if self._stage == 0:
            return self._norm_of_replicas()
        cut, whole = (total_norm(self._shares(cut=cut)).float().square() for cut in (True, False))
        square = (cut + whole / self._mesh.tensor).to(self._engine.device)  # what isn't cut is on every peer
        torch.distributed.all_reduce(square)
        return square.sqrt()

    def _norm_of_replicas(self) -> torch.Tensor:
        """Stage 0: every data-parallel rank holds the same, and tensor-parallel peers slices of what is cut."""
        if self._mesh.tensor == 1:
            return total_norm(self.tensors())
        from deepspeed.runtime.utils import is_model_parallel_parameter
        from deepspeed.utils import groups

        squares = []
        for cut in (True, False):
            parameters = [p for p in self._engine.module.parameters() if is_model_parallel_parameter(p) == cut]
            gradients = [p.grad for p in parameters if p.grad is not None]
            squares.append(total_norm(gradients).square())
        torch.distributed.all_reduce(squares[0], group=groups.get_tensor_model_parallel_group())
        return (squares[0] + squares[1]).sqrt()

    def _shares(self, *, cut: bool) -> list[torch.Tensor]:
        """Stages 1 to 3: the parts of `tensors` that belong to this rank's partitions, without padding.

        Those of parameters that tensor parallelism cut, or of the others; without it all are others.
        """
        from deepspeed.runtime.utils import is_model_parallel_parameter

        zero = self._engine.optimizer
        shares = []
        if self._stage == 3 and not self.offloaded:
            for group, parts in zero.averaged_gradients.items():
                for parameter, part in zip(zero.fp16_groups[group], parts, strict=True):
                    if is_model_parallel_parameter(parameter) == cut:
                        shares.append(part.view(-1)[: partition_range(parameter)[1]])
            return shares
        return [share for parameter, share in self.held_shares() if is_model_parallel_parameter(parameter) == cut]

    def held_shares(self) -> Iterator[tuple[Any, torch.Tensor]]:
        """Stages 1 and 2, or offloaded: parameters of this rank's partitions, what of their gradients is in them."""
        if self.offloaded:
            flat = flat_partitions(self._engine)
            for _, parameter in trained_parameters(self._engine):
                group, start, count = self._place(parameter)
                if count > 0:
                    yield parameter, flat[group].grad.narrow(0, start, count)  # type: ignore[union-attr]
        for group, (gradients, _, _) in self._held.items():
            for parameter, gradient in zip(self._engine.optimizer.params_in_partition[group], gradients, strict=True):
                address = parameter._hp_mapping.lp_fragment_address
                yield parameter, gradient.reshape(-1).narrow(0, address.start, address.numel)

    def _place(self, parameter: Any) -> tuple[int, int, int]:
        """Group, first element and elements of a parameter in this rank's flat partitions, of stages 1 to 3."""
        if self._stage == 3:
            zero = self._engine.optimizer
            group, start = zero.grad_position[zero.get_param_id(parameter)][:2]
            return group, start, partition_range(parameter)[1]
        if parameter._hp_mapping is None:
            return 0, 0, 0  # another rank's
        address = parameter._hp_mapping.hp_fragment_address
        return parameter._hp_mapping.param_group_index, address.start, address.numel

    def release(self) -> None:
        """Lets DeepSpeed go on with the gradients as they are now: stages 1 and 2 orthogonalize here."""
        zero = self._engine.optimizer
        for group, (gradients, arguments, options) in self._held.items():
            assert self._flatten is not None
            zero.all_grad_tensors[group] = gradients
            zero.averaged_gradients[group] = self._flatten(*arguments, param_group_idx=group, **options)
            zero.all_grad_tensors[group] = None
        self._held.clear()


def total_norm(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Euclidean norm of all elements; fp32, 0-d.

    On a CPU by chunks: torch adds the squares of a tensor up one after the other, which at 2 million elements makes the
    norm 3e-5 too small, and at 25 million 1.4e-3.
    """
    if not tensors or tensors[0].device.type != "cpu":
        return torch.nn.utils.get_total_norm(tensors)
    chunks = [chunk for tensor in tensors for chunk in tensor.reshape(-1).split(CHUNK)]
    return torch.stack([torch.dot(chunk, chunk) for chunk in chunks]).double().sum().sqrt().float()

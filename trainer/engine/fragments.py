"""What a rank holds of the training state, at any ZeRO stage, as views of named parameters' flat ranges.

DeepSpeed flattens, cuts and pads. Here each stage's layout is turned into `Fragment`s: parameter, range, and views that
alias DeepSpeed's own storage. Reading a view takes a checkpoint, writing into it restores one; nothing is gathered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainer.engine.optimizer import MOMENTS

WEIGHT = "fp32"
KINDS = (WEIGHT, *MOMENTS)

# (parameter, kind, start, stop) → 1-D fp32 tensor with elements [start, stop) of the flattened parameter
Source = Callable[[str, str, int, int], torch.Tensor]


@dataclass(frozen=True)
class Fragment:
    """Elements [start, stop) of a flattened parameter of `shape`; `views` by kind are 1-D and of that length."""

    parameter: str
    shape: tuple[int, ...]
    start: int
    stop: int
    views: dict[str, torch.Tensor]


def full_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Shape of the whole parameter, also where ZeRO-3 has cut it."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def held_fragments(engine: Any) -> Iterator[Fragment]:
    """All that this rank holds and may write: fp32 weights and moments. At stage 0 every rank holds everything."""
    stage = engine.zero_optimization_stage()
    inner = inner_optimizer(engine)
    for name, parameter in engine.module.named_parameters():
        shape = full_shape(parameter)
        if stage == 0:
            views = {WEIGHT: parameter.data.view(-1)} | _moments(inner, parameter, 0, parameter.numel())
            yield Fragment(name, shape, 0, parameter.numel(), views)
        elif stage < 3:
            mapping = parameter._hp_mapping
            if mapping is None:
                continue  # another rank's
            flat = _flat_partitions(engine)[mapping.param_group_index]
            start, count = mapping.hp_fragment_address.start, mapping.hp_fragment_address.numel
            views = {WEIGHT: flat.data.narrow(0, start, count)} | _moments(inner, flat, start, count)
            first = mapping.lp_fragment_address.start
            yield Fragment(name, shape, first, first + count, views)
        else:
            first, count = _partition(parameter)
            if count == 0:
                continue  # all of this rank's partition is padding
            group, start, _ = engine.optimizer.grad_position[engine.optimizer.get_param_id(parameter)]
            flat = _flat_partitions(engine)[group]
            views = {WEIGHT: flat.data.narrow(0, start, count)} | _moments(inner, flat, start, count)
            yield Fragment(name, shape, first, first + count, views)


def own_share(fragment: Fragment, *, rank: int, world_size: int) -> Fragment:
    """The part of a fragment that all ranks hold (stage 0) which this rank writes, so that replicas write once."""
    count = fragment.stop - fragment.start
    low, high = count * rank // world_size, count * (rank + 1) // world_size
    views = {kind: view[low:high] for kind, view in fragment.views.items()}
    return Fragment(fragment.parameter, fragment.shape, fragment.start + low, fragment.start + high, views)


def _moments(inner: torch.optim.Optimizer, flat: torch.Tensor, start: int, count: int) -> dict[str, torch.Tensor]:
    state = inner.state[flat]
    return {kind: state[kind].view(-1).narrow(0, start, count) for kind in MOMENTS}


def _partition(parameter: Any) -> tuple[int, int]:
    """(first element, elements) of this rank's ZeRO-3 partition, without the padding at the end."""
    size = parameter.partition_numel()
    first = size * torch.distributed.get_rank(parameter.ds_process_group)
    return first, max(0, min(size, parameter.ds_numel - first))


def inner_optimizer(engine: Any) -> torch.optim.Optimizer:
    """The torch optimiser under DeepSpeed's wrapper, which holds the moments and the step count."""
    return engine.optimizer if engine.zero_optimization_stage() == 0 else engine.optimizer.optimizer


def _flat_partitions(engine: Any) -> list[torch.Tensor]:
    """The fp32 tensors that the torch optimiser steps: parameters at stage 0, DeepSpeed's flat partitions above.

    DeepSpeed has one class for bf16 with fp32 accumulation at stage 1 (BF16_Optimizer), and others for the rest.
    """
    if engine.zero_optimization_stage() == 0:
        return list(engine.module.parameters())
    for name in ("single_partition_of_fp32_groups", "fp32_groups_flat_partition", "fp32_partitioned_groups_flat"):
        if hasattr(engine.optimizer, name):
            return list(getattr(engine.optimizer, name))
    raise TypeError(f"{type(engine.optimizer).__name__} of DeepSpeed holds its fp32 weights in a way not known here")


def create_moments(engine: Any, steps: int) -> None:
    """Gives the optimiser its moments, zero, and `steps` as its own count; torch would make them at its first step."""
    inner = inner_optimizer(engine)
    for flat in _flat_partitions(engine):
        step = torch.tensor(float(steps), dtype=torch.float32, device=flat.device)
        inner.state[flat] = {"step": step, **{kind: torch.zeros_like(flat) for kind in MOMENTS}}


@torch.no_grad()
def restore(engine: Any, source: Source, *, steps: int) -> None:
    """Sets weights and moments of `engine` from `source`, at any stage; reads only what this rank holds."""
    create_moments(engine, steps)
    for fragment in held_fragments(engine):
        for kind, view in fragment.views.items():
            view.copy_(source(fragment.parameter, kind, fragment.start, fragment.stop))
    if engine.zero_optimization_stage() > 0:
        fill_weights(engine.module, source)


@torch.no_grad()
def fill_weights(model: nn.Module, source: Source) -> None:
    """Sets the weights that forward uses: whole parameters, or at stage 3 this rank's partitions."""
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "ds_tensor"):
            first, count = _partition(parameter)
            parameter.ds_tensor.data[:count].copy_(source(name, WEIGHT, first, first + count))
            parameter.ds_secondary_tensor = None  # type: ignore[attr-defined]  # hpZ's copy: stale now, and made anew after the next gather
        else:
            whole = source(name, WEIGHT, 0, parameter.numel())
            parameter.data.copy_(whole.view(parameter.shape))

"""What a rank holds of the training state, at any ZeRO stage and tensor degree, as views of regions of parameters.

DeepSpeed flattens, cuts and pads. Here each stage's layout is turned into `Fragment`s: parameter, region, and views
that alias DeepSpeed's own storage. Reading one takes a checkpoint, writing into it restores it; nothing is gathered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch
from torch import nn

from trainer.checkpoint.fragment import WEIGHT, Fragment
from trainer.engine.deepspeed import muon
from trainer.engine.deepspeed.offload import group_in_memory, weight_in_memory
from trainer.engine.optimizers.build import moments_of
from trainer.model.partition import Partition
from trainer.model.quantized import is_quantized
from trainer.model.region import Region, Source
from trainer.ranks.mesh import Mesh


def held_fragments(engine: Any, partition: Partition, *, moments: bool = True) -> Iterator[Fragment]:
    """All that this rank holds of what is trained: fp32 weights and moments. At stage 0 that is all of its slices.

    A new run has no `moments` before its first step.
    """
    stage = engine.zero_optimization_stage()
    inner = inner_optimizer(engine)
    for name, parameter in trained_parameters(engine):
        held = Region.of_slice(partition.shapes[name], partition.slice_of(name))
        if stage == 0:
            views = {WEIGHT: parameter.data.view(-1)}
            if moments:
                views |= _moments(inner, parameter, parameter, 0, parameter.numel())
            yield Fragment(name, held, views)
        elif stage < 3:
            mapping = parameter._hp_mapping
            if mapping is None:
                continue  # another rank's
            flat = flat_partitions(engine)[mapping.param_group_index]
            start, count = mapping.hp_fragment_address.start, mapping.hp_fragment_address.numel
            first = mapping.lp_fragment_address.start
            views = {WEIGHT: flat.data.narrow(0, start, count)}
            if getattr(parameter, "use_muon", False) and muon.holds_whole_momenta(engine):
                start = muon.momentum_start(engine, parameter) + first
            if moments:
                views |= _moments(inner, parameter, flat, start, count)
            yield Fragment(name, replace(held, start=first, stop=first + count), views)
    if stage == 3:
        yield from _held_at_stage_3(engine, partition, moments=moments)


def trained_parameters(engine: Any) -> Iterator[tuple[str, Any]]:
    """Names and parameters that the optimiser steps: all but the base that adapters are beside."""
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad:
            yield name, parameter


def _held_at_stage_3(engine: Any, partition: Partition, *, moments: bool) -> Iterator[Fragment]:
    """By group of DeepSpeed's, for one on NVMe is in memory only while its fragments are being used."""
    inner = inner_optimizer(engine)
    places = [
        (*engine.optimizer.grad_position[engine.optimizer.get_param_id(parameter)][:2], name, parameter)
        for name, parameter in trained_parameters(engine)
    ]
    for group, members in groupby(sorted(places, key=itemgetter(0, 1)), key=itemgetter(0)):
        with group_in_memory(engine, group):
            flat = flat_partitions(engine)[group]
            for _, start, name, parameter in members:
                first, count = partition_range(parameter)
                if count == 0:
                    continue  # all of this rank's partition is padding
                held = Region.of_slice(partition.shapes[name], partition.slice_of(name))
                views = {WEIGHT: flat.data.narrow(0, start, count)}
                if moments:
                    views |= _moments(inner, parameter, flat, start, count)
                yield Fragment(name, replace(held, start=first, stop=first + count), views)


def owned_fragments(
    engine: Any, partition: Partition, mesh: Mesh, extend: Callable[[Fragment], Fragment] = lambda fragment: fragment
) -> Iterator[Fragment]:
    """What of `held_fragments` this rank writes: where others hold the same, each of them writes a part.

    `extend` may add kinds of views to what is held. All data-parallel ranks hold the same at stage 0, and all
    tensor-parallel ones what isn't cut.
    """
    stage = engine.zero_optimization_stage()
    for fragment in map(extend, held_fragments(engine, partition)):
        index, count = (mesh.rank // mesh.tensor, mesh.world_size // mesh.tensor) if stage == 0 else (0, 1)
        if fragment.region.slice is None:
            if stage in (1, 2):
                # Peers' flat partitions end at different elements where their slices differ in size: an even share of
                # each peer's fragment would leave out what lies between, and hold other elements twice.
                fragment = _part_of_parameter(fragment, mesh.tensor_rank, mesh.tensor)
            else:
                index, count = index * mesh.tensor + mesh.tensor_rank, count * mesh.tensor
        if fragment.region.count > 0:
            yield fragment if count == 1 else fragment.share(index, count)


def _part_of_parameter(fragment: Fragment, index: int, count: int) -> Fragment:
    """What of a fragment lies in the `index`-th of `count` even parts of its parameter."""
    region = fragment.region
    size = math.prod(region.shape)
    start = max(region.start, size * index // count)
    stop = max(start, min(region.stop, size * (index + 1) // count))
    views = {kind: view[start - region.start : stop - region.start] for kind, view in fragment.views.items()}
    return Fragment(fragment.parameter, replace(region, start=start, stop=stop), views)


def _moments(
    inner: torch.optim.Optimizer, parameter: nn.Parameter, flat: torch.Tensor, start: int, count: int
) -> dict[str, torch.Tensor]:
    state = inner.state[flat]
    return {kind: state[kind].view(-1).narrow(0, start, count) for kind in moments_of(inner, parameter)}


def partition_range(parameter: Any) -> tuple[int, int]:
    """(first element, elements) of this rank's ZeRO-3 partition of its slice, without the padding at the end."""
    size = parameter.partition_numel()
    first = size * torch.distributed.get_rank(parameter.ds_process_group)
    return first, max(0, min(size, parameter.ds_numel - first))


def inner_optimizer(engine: Any) -> torch.optim.Optimizer:
    """The torch optimiser under DeepSpeed's wrapper, which holds the moments and the step count."""
    return engine.optimizer if engine.zero_optimization_stage() == 0 else engine.optimizer.optimizer


def flat_partitions(engine: Any) -> list[torch.Tensor]:
    """The fp32 tensors that the torch optimiser steps: parameters at stage 0, DeepSpeed's flat partitions above.

    DeepSpeed has one class for bf16 with fp32 accumulation at stage 1 (BF16_Optimizer), and others for the rest.
    """
    if engine.zero_optimization_stage() == 0:
        return [parameter for _, parameter in trained_parameters(engine)]
    for name in ("single_partition_of_fp32_groups", "fp32_groups_flat_partition", "fp32_partitioned_groups_flat"):
        if hasattr(engine.optimizer, name):
            return list(getattr(engine.optimizer, name))
    raise TypeError(f"{type(engine.optimizer).__name__} of DeepSpeed holds its fp32 weights in a way not known here")


def _first_parameters(engine: Any) -> list[nn.Parameter]:
    """A parameter of each of flat_partitions: all of a flat partition are of one group."""
    if engine.zero_optimization_stage() == 0:
        return [parameter for _, parameter in trained_parameters(engine)]
    for name in ("bit16_groups", "bf16_groups", "fp16_groups"):
        if hasattr(engine.optimizer, name):
            return [group[0] for group in getattr(engine.optimizer, name)]
    raise TypeError(f"{type(engine.optimizer).__name__} of DeepSpeed groups its parameters in a way not known here")


def create_moments(engine: Any, steps: int) -> None:
    """Gives the optimiser its moments, zero, and `steps` as its own count; torch would make them at its first step."""
    inner = inner_optimizer(engine)
    for group, (flat, parameter) in enumerate(zip(flat_partitions(engine), _first_parameters(engine), strict=True)):
        with group_in_memory(engine, group):
            inner.state.pop(flat, None)  # DeepSpeed's: both needn't be there at once
            if getattr(parameter, "use_muon", False) and muon.holds_whole_momenta(engine):
                inner.state[flat] = {"momentum_buffer": muon.whole_momenta(engine, group)}
                continue
            inner.state[flat] = {
                "step": torch.tensor(float(steps), dtype=torch.float32, device=flat.device),
                **{kind: torch.zeros_like(flat) for kind in moments_of(inner, parameter)},
            }


@torch.no_grad()
def restore(engine: Any, partition: Partition, source: Source, *, steps: int) -> None:
    """Sets weights and moments of `engine` from `source`, at any stage; reads what this rank holds, and that once.

    The weights that forward uses follow from those that the optimiser steps, as after each step: at stage 3 each rank
    copies its partition, at stages 1 and 2 they are gathered, which is quicker than that all ranks read them all.
    """
    create_moments(engine, steps)
    stage = engine.zero_optimization_stage()
    parameters = dict(engine.module.named_parameters())
    for fragment in held_fragments(engine, partition):
        for kind, view in fragment.views.items():
            view.copy_(source(fragment.parameter, kind, fragment.region))
        if stage == 3:
            _set_partition(parameters[fragment.parameter], fragment.views[WEIGHT])
    if muon.holds_whole_momenta(engine):
        muon.fill_whole_momenta(engine, partition, source)
    if stage in (1, 2):
        engine.optimizer.update_lp_params()


@torch.no_grad()
def restore_base(engine: Any, partition: Partition, source: Source) -> None:
    """Sets the weights that aren't trained, of which every rank has all below stage 3, and at stage 3 its partition."""
    stage = engine.zero_optimization_stage()
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad or is_quantized(parameter):
            continue
        held = Region.of_slice(partition.shapes[name], partition.slice_of(name))
        if stage < 3:
            parameter.data.view(-1).copy_(source(name, WEIGHT, held))
            continue
        first, count = partition_range(parameter)
        if count > 0:
            _set_partition(parameter, source(name, WEIGHT, replace(held, start=first, stop=first + count)))


def _set_partition(parameter: Any, weights: torch.Tensor) -> None:
    """Sets stage 3's partition of the weight that forward uses, without the padding at its end."""
    with weight_in_memory(parameter):
        parameter.ds_tensor.data[: weights.numel()].copy_(weights)
    drop_copy(parameter)


def drop_copy(parameter: Any) -> None:
    """Drops the second copy that ZeRO++ hpZ keeps of a weight: it is stale, and made anew at the next gather."""
    parameter.ds_secondary_tensor = None

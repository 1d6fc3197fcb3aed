"""Gives the parameters of a model on the meta device their storage: what this rank keeps of them, and no more.

Below stage 3 that is a rank's slices; at stage 3 its partitions, one parameter being whole at a time. What they hold
means nothing until `fragments.restore`, so DeepSpeed needn't make it the same on all ranks, nor gather it: it would
send every weight through every rank, at stage 3 twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from trainer.config import Pretrain
from trainer.engine.deepspeed.offload import home_of_weights
from trainer.model.build import LanguageModel
from trainer.model.quantized import is_quantized
from trainer.ranks.mesh import Mesh, own_group


def allocate(model: LanguageModel, config: Pretrain, mesh: Mesh, settings: dict[str, Any]) -> None:
    """Replaces the parameters of a model on the meta device by ones with storage; buffers go to the device.

    Attributes of parameters stay, hooks don't. Tied ones stay one.
    """
    store = _stored_by_zero3(config, mesh, settings) if config.parallel.zero_stage == 3 else _stored(config, mesh)
    replaced: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None or is_quantized(parameter):  # which comes with its weights
                continue
            if parameter not in replaced:
                replaced[parameter] = store(parameter)
            module._parameters[name] = replaced[parameter]
        for name, buffer in module._buffers.items():
            module._buffers[name] = buffer.to(mesh.device) if buffer is not None else None


def _stored(config: Pretrain, mesh: Mesh) -> Callable[[nn.Parameter], nn.Parameter]:
    """Makes a parameter like one of the meta device, whole."""
    dtype = torch.bfloat16 if config.has_bf16_weights else torch.float32
    return lambda parameter: _empty_like(parameter, dtype, mesh.device)


def _stored_by_zero3(config: Pretrain, mesh: Mesh, settings: dict[str, Any]) -> Callable[[nn.Parameter], nn.Parameter]:
    """Makes a parameter like one of the meta device, and leaves of it this rank's partition."""
    import deepspeed
    from deepspeed.utils import groups

    size, world_size = config.parallel.hpz, mesh.world_size
    if size > 1:  # DeepSpeed would make these groups one after the other
        copies = own_group([range(first, first + size) for first in range(0, world_size, size)])
        groups._ZERO_PARAM_INTRA_PARALLEL_GROUP = copies
    # With `dtype` DeepSpeed 0.19.8 would make every parameter bf16 on a CPU, also for fp32. A module, though empty:
    # given one, it makes linear layers save the parameter for backward instead of what was gathered of it.
    init = deepspeed.zero.Init(
        module=nn.Module(),
        config_dict_or_path=settings,
        remote_device=home_of_weights(config, mesh),
        zero_param_parallel_group=groups._get_zero_param_intra_parallel_group(),
        data_parallel_group=groups.get_data_parallel_group() if mesh.tensor > 1 else None,
    )

    def store(parameter: nn.Parameter) -> nn.Parameter:
        stored: Any = _empty_like(parameter, init.dtype, mesh.device)
        init._convert_to_deepspeed_param(stored)
        stored.partition()
        return stored

    return store


def _empty_like(parameter: nn.Parameter, dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    values = torch.empty(parameter.shape, dtype=dtype, device=device)
    stored = nn.Parameter(values, requires_grad=parameter.requires_grad)
    vars(stored).update(vars(parameter))
    return stored


@contextlib.contextmanager
def without_exchange() -> Iterator[None]:
    """Where DeepSpeed neither broadcasts weights (stages 0 to 2) nor gathers them to hang hooks on (stage 3)."""
    from deepspeed.runtime.engine import DeepSpeedEngine
    from deepspeed.runtime.zero.partition_parameters import Init, ZeroParamStatus

    def make_room(init: Any, parameters: list[Any], async_op: bool = False, hierarchy: int = 0) -> None:
        init._ensure_availability_of_partitioned_params(parameters)  # on NVMe
        for parameter in parameters:
            if parameter.ds_status == ZeroParamStatus.NOT_AVAILABLE:
                parameter.data = torch.empty(parameter.ds_shape, dtype=parameter.dtype, device=init.local_device)
                parameter.ds_status = ZeroParamStatus.AVAILABLE

    gather, broadcast = Init._all_gather, DeepSpeedEngine._broadcast_model
    Init._all_gather, DeepSpeedEngine._broadcast_model = make_room, lambda engine: None
    try:
        yield
    finally:
        Init._all_gather, DeepSpeedEngine._broadcast_model = gather, broadcast

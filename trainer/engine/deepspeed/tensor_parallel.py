"""A model cut among tensor-parallel ranks by DeepSpeed's AutoTP, before it takes any memory.

Built whole and cut afterwards, as DeepSpeed does, each device would first hold all of the fp32 model: 282 GB at 70B.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from trainer.model.build import LanguageModel
from trainer.model.hugging_face.causal_lm import CausalLM
from trainer.model.moe import Experts
from trainer.model.partition import Partition
from trainer.ranks.mesh import Mesh


def cut_empty(module: LanguageModel, mesh: Mesh, partition: Partition, settings: dict[str, Any]) -> None:
    """Cuts a model on the meta device as DeepSpeed's `settings` say; then it takes this rank's memory for its slices.

    The engine doesn't cut it again.
    """
    from deepspeed.module_inject import set_autotp_mode
    from deepspeed.module_inject.auto_tp import AutoTP
    from deepspeed.runtime.tensor_parallel import get_tensor_parallel_config
    from deepspeed.utils import groups

    set_autotp_mode(training=True)  # which `deepspeed.initialize` would do later
    deal_experts(module, mesh, partition)
    config = get_tensor_parallel_config(settings)
    cutter = AutoTP(
        module=module,
        all_reduce_linears=(),
        prefix="",
        state_dict=None,
        linear_layer_setting=(nn.Linear, nn.Embedding),
        orig_layer_impl=None,
        keep_module_on_host=False,
        partition_config=config.get_partition_config_object(),
        vocab_parallel_lm_head=False,
        model_config=getattr(module, "config", None),
        tp_grain_size=config.tensor_parallel.tp_grain_size,
        training_mode=True,
    )
    cutter.set_tensor_parallel_config(mesh.tensor, groups.get_tensor_model_parallel_group())
    cutter.update_linear_policies()
    cutter._replace_module(module)
    _take_memory(module, mesh.device)
    cutter.register_replicated_grad_hooks(module)
    module.ds_autotp_parsed = True  # type: ignore[assignment]


def _take_memory(module: LanguageModel, device: torch.device) -> None:
    """Gives parameters on meta memory on a device. They become other objects: what AutoTP wrote on them is copied."""
    marks = {name: vars(parameter).copy() for name, parameter in module.named_parameters()}
    module.to_empty(device=device)
    if isinstance(module, CausalLM):
        module.inner.tie_weights()
    for name, parameter in module.named_parameters():
        vars(parameter).update(marks[name])


@torch.no_grad()
def deal_experts(model: LanguageModel, mesh: Mesh, partition: Partition) -> None:
    """Leaves each tensor-parallel rank its share of every layer's experts, which AutoTP doesn't know how to cut."""
    if mesh.tensor == 1:
        return
    from deepspeed.module_inject.layers import ColumnParallel, RowParallel
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters
    from deepspeed.utils import groups

    group = groups.get_tensor_model_parallel_group()
    for prefix, module in model.named_modules():
        if not isinstance(module, Experts):
            continue
        held = partition.slice_of(f"{prefix}.down_proj")
        assert held is not None
        for name, parameter in list(module.named_parameters()):
            with GatheredParameters([parameter], enabled=hasattr(parameter, "ds_tensor")):
                own = nn.Parameter(parameter.data[held.start : held.stop].clone())
            own.tensor_model_parallel = True  # type: ignore[attr-defined]  # or DeepSpeed's norm would count one rank's
            setattr(module, name, own)
        module.hold(
            held.start, partial(ColumnParallel.apply, group), lambda sums: RowParallel.apply(group, sums, False)
        )

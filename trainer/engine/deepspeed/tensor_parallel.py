"""Cuts a model on the meta device among tensor-parallel ranks: AutoTP's layers, the vocabulary, and experts dealt out.

DeepSpeed would cut inside `initialize`, when the whole model has taken its memory on every rank. AutoTP's layers read
shapes only, so they are made before any parameter has storage, and `initialize` finds the model cut.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from trainer.model.build import LanguageModel
from trainer.model.decoder import Transformer
from trainer.model.moe import Experts
from trainer.model.partition import Partition


def cut(module: LanguageModel, partition: Partition, settings: dict[str, Any]) -> Callable[[], None]:
    """Leaves this rank its slices of a model on the meta device, as `partition` says, by DeepSpeed's `settings`.

    What it returns is to be called when the parameters have storage: hooks on those of the meta device would be lost.
    """
    from deepspeed.module_inject.auto_tp import AutoTP
    from deepspeed.module_inject.layers import set_autotp_mode
    from deepspeed.runtime.tensor_parallel.config import get_tensor_parallel_config
    from deepspeed.utils import groups

    set_autotp_mode(training=True)
    _deal_experts(module, partition)
    if isinstance(module, Transformer):
        _cut_vocabulary(module)
    config = get_tensor_parallel_config(settings)
    autotp = AutoTP(
        module=module,
        all_reduce_linears=(),
        prefix="",
        state_dict=None,
        linear_layer_setting=(nn.Linear, nn.Embedding),
        orig_layer_impl=None,
        partition_config=config.get_partition_config_object(),
        model_config=module.config,
        tp_grain_size=config.tensor_parallel.tp_grain_size,
        training_mode=True,
    )
    autotp.set_tensor_parallel_config(partition.degree, groups.get_tensor_model_parallel_group())
    autotp.update_linear_policies()
    with contextlib.redirect_stdout(io.StringIO()):  # it says there what it was told
        autotp._replace_module(module)
    module.ds_autotp_parsed = True  # type: ignore[assignment]  # by which `initialize` knows

    def add_hooks() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            autotp.register_replicated_grad_hooks(module)

    return add_hooks


def _cut_vocabulary(module: Transformer) -> None:
    """Leaves each tensor-parallel rank its rows of embedding and head, which stay one where they are tied.

    Looked-up rows are summed over the ranks, all but one of which add zeros: exact. Logits are gathered.
    """
    from deepspeed.module_inject.layers import VocabParallelEmbedding, VocabParallelLinear
    from deepspeed.utils import groups

    group = groups.get_tensor_model_parallel_group()
    embedding = module.model.embed_tokens
    tied = module.lm_head.weight is embedding.weight
    # By this name DeepSpeed cuts rows evenly; by others between key and value heads, where these divide the vocabulary.
    head = VocabParallelLinear(module.lm_head, group, name="lm_head")
    head.gather_output = True
    rows = VocabParallelEmbedding(embedding, group, tied_vocab_parallel_linear=head if tied else None, name="lm_head")
    for layer in (head, rows):
        layer.replaced = True  # AutoTP leaves it alone
    module.lm_head = head
    module.get_submodule("model").embed_tokens = rows


@torch.no_grad()
def _deal_experts(model: LanguageModel, partition: Partition) -> None:
    """Leaves each tensor-parallel rank its share of every layer's experts, which AutoTP doesn't know how to cut."""
    from deepspeed.module_inject.layers import ColumnParallel, RowParallel
    from deepspeed.utils import groups

    group = groups.get_tensor_model_parallel_group()
    for prefix, module in model.named_modules():
        if not isinstance(module, Experts):
            continue
        held = partition.slice_of(f"{prefix}.down_proj")
        assert held is not None
        for name, parameter in list(module.named_parameters()):
            own = nn.Parameter(parameter[held.start : held.stop].clone())
            own.tensor_model_parallel = True  # type: ignore[attr-defined]  # or DeepSpeed's norm would count one rank's
            setattr(module, name, own)
        module.hold(
            held.start, partial(ColumnParallel.apply, group), lambda sums: RowParallel.apply(group, sums, False)
        )

"""A model and its state on this rank's devices, inside DeepSpeed's engine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from trainer.checkpoint.fragment import WEIGHT
from trainer.config import Model, Pretrain
from trainer.engine.bf16 import autocast
from trainer.engine.deepspeed import fragments, zero
from trainer.engine.float8 import to_float8
from trainer.engine.optimizers.build import build_optimizer
from trainer.engine.sequence import spread_sequence
from trainer.model.adapters import add_adapters
from trainer.model.build import LanguageModel, build_on_meta, partition_model
from trainer.model.head_products import Float8Products, PlainProducts, quantize_tensor
from trainer.model.loss import logit_losses
from trainer.model.moe import keep_eager
from trainer.model.partition import Partition
from trainer.model.quantized import fill_quantized
from trainer.model.region import Source
from trainer.ranks.mesh import Mesh
from trainer.rules.compiled import settle_merging


@dataclass(frozen=True)
class Assembly:
    """DeepSpeed's engine, the model that it wraps, and how the model is cut among tensor-parallel ranks."""

    engine: Any
    model: LanguageModel
    partition: Partition

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimiser whose groups the schedule sets."""
        return fragments.inner_optimizer(self.engine)


def assemble(
    config: Pretrain, model: Model, shapes: dict[str, tuple[int, ...]], mesh: Mesh, base: Source | None = None
) -> Assembly:
    """Builds `model`, with parameters of `shapes`, for `config`. Every rank calls it.

    Layers of 4 bits get their weights here, from `base`: DeepSpeed can't be given them empty.

    Its weights mean nothing until `fragments.restore` sets them, and its blocks aren't compiled yet.
    """
    partition = partition_model(model, shapes, mesh.tensor_rank, mesh.tensor)
    module = build_on_meta(model)
    if config.adapt.name == "lora":
        add_adapters(module, config.adapt, compute_dtype=torch.bfloat16 if config.train.in_bf16 else torch.float32)
    if config.train.precision == "fp8":
        to_float8(module)
    if config.train.fp8_head:
        module.products = partial(Float8Products, quantize=quantize_tensor)
    module.set_activation_checkpointing(config.train.activation_checkpointing)
    spread_sequence(module, mesh)
    if settle_merging(config, cuda=mesh.device.type == "cuda"):
        module.merge_products()  # type: ignore[operator]
    zero.construct(config, mesh, module, partition)
    if config.adapt.quantize != "none" and base is not None:
        fill_quantized(module, lambda name, region: base(name, WEIGHT, region), mesh.device)
    if config.autocasts:
        autocast(module, mesh.device)
    trained = ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)
    optimizer = build_optimizer(config.optimizer, model, trained)
    return Assembly(zero.initialize(config, mesh, module, optimizer, partition), module, partition)


def compile_parts(module: Any, *, dynamic: bool | None = None) -> None:
    """torch.compile, block by block: one small graph, compiled once for all blocks of a shape; not the experts.

    And what becomes of the logits, the largest tensors of a step: compiled, they are passed over fewer times. It is the
    forward of a block that is compiled, so that hooks on it, by which stage 3 brings its weights, stay outside.
    `dynamic` is torch.compile's: None makes sizes dynamic that are found to change, False compiles each by itself.
    """
    keep_eager(module)
    for block in module.blocks:
        block.forward = torch.compile(block.forward, dynamic=dynamic)
    module.measure = torch.compile(logit_losses, dynamic=dynamic)
    if getattr(module, "products", PlainProducts) is not PlainProducts:
        module.products = partial(Float8Products, quantize=torch.compile(quantize_tensor, dynamic=dynamic))

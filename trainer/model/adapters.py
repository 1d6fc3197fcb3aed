"""LoRA by peft: adapters put into a model of ours or Hugging Face's, and how their weights become the model's.

A layer `NAME` with an adapter has the parameters `NAME.base_layer.weight`, which stays, `NAME.lora_A.default.weight`,
`NAME.lora_B.default.weight` and, with DoRA, `NAME.lora_magnitude_vector.default.weight`.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config import Adapt, Model
from trainer.errors import ConfigError
from trainer.machine.quiet import quiet_torchao
from trainer.model.build import LanguageModel, build_on_meta
from trainer.model.hugging_face.causal_lm import CausalLM
from trainer.model.normal_tiles import draw_normal
from trainer.model.quantized import quantize_layers
from trainer.model.region import Region

BASE, LORA_A, LORA_B = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"
MAGNITUDE = ".lora_magnitude_vector.default.weight"
ROUTER = ".mlp.gate"  # of ours: few outputs, by which experts are chosen


def add_adapters(model: LanguageModel, adapt: Adapt, *, compute_dtype: torch.dtype | None = None) -> None:
    """Puts adapters beside the chosen layers of a model on the meta device; all else stays as it is, untrained.

    With a `compute_dtype`, in which layers of 4 bits are to multiply, and adapt.quantize, these layers become such.
    ConfigError where peft isn't installed, or a target is no linear layer of the model.
    """
    peft = _peft()
    layers = choose_layers(model, adapt.targets)
    if adapt.quantize != "none" and compute_dtype is not None:
        quantize_layers(_inner(model), layers, compute_dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft.inject_adapter_in_model(lora_config(adapt, layers), _inner(model), low_cpu_mem_usage=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_adapter(name))
    if adapt.embeddings:
        for module in _ends(model):
            module.requires_grad_(True)


def lora_config(adapt: Adapt, targets: list[str]) -> Any:
    """peft's LoraConfig."""
    return _peft().LoraConfig(
        r=adapt.rank,
        lora_alpha=adapt.alpha if adapt.alpha != int(adapt.alpha) else int(adapt.alpha),
        target_modules=targets,
        lora_dropout=0.0,
        bias="none",
        use_dora=adapt.dora,
        task_type="CAUSAL_LM",
    )


def choose_layers(model: LanguageModel, targets: list[str]) -> list[str]:
    """Full names of the layers that `targets` name, or of all linear ones but the head. ConfigError for no match."""
    ends = {id(module) for module in _ends(model)}
    linear = [
        name
        for name, module in _inner(model).named_modules()
        if isinstance(module, nn.Linear) and id(module) not in ends and not name.endswith(ROUTER)
    ]
    kinds = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in linear))
    for target in targets:
        if not any(_matches(name, target) for name in linear):
            raise ConfigError(
                f"adapt.targets={target}: no linear layer of the model's blocks has that name; choose of {kinds}."
            )
    if not linear:
        raise ConfigError("adapt=lora: the model has no linear layer outside of its head; use adapt=full.")
    return [name for name in linear if not targets or any(_matches(name, target) for target in targets)]


def adapted_shapes(model: Model, adapt: Adapt) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """Shape of every parameter of the model with adapters, by name, and the names of those that are trained."""
    module = build_on_meta(model)
    add_adapters(module, adapt)
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    return shapes, [name for name, parameter in module.named_parameters() if parameter.requires_grad]


def name_of_head(model: Model) -> str:
    """The name of the module that makes logits."""
    module = build_on_meta(model)
    head = _ends(module)[-1]
    return next(name for name, found in _inner(module).named_modules() if found is head)


def is_adapter(name: str) -> bool:
    """Whether a parameter is an adapter's."""
    return name.endswith((LORA_A, LORA_B, MAGNITUDE))


def base_name(name: str) -> str:
    """The name that a parameter of the base has in the model without adapters."""
    return name.replace(BASE, ".")


def base_of_adapter(name: str) -> str:
    """The base's parameter that an adapter is beside."""
    for ending in (LORA_A, LORA_B, MAGNITUDE):
        name = name.removesuffix(ending)
    return f"{name}.weight"


def initial_adapter(seed: int, name: str, region: Region, base: Callable[[str, Region], Tensor], width: int) -> Tensor:
    """Elements of an adapter at step 0: (region.count,) fp32 on the CPU, with which the model is what it was.

    A is uniform in ±1/√inputs (kaiming_uniform with a = √5, as peft has it), as a function of (seed, name, shape); B
    is zeros; DoRA's magnitudes are the lengths of the base's rows, `width` elements each, which `base` gives by name
    and rows.
    """
    if name.endswith(LORA_B):
        return torch.zeros(region.count)
    if name.endswith(LORA_A):
        normal = draw_normal(f"{seed}/{name}", region, 1.0)
        return torch.erf(normal / math.sqrt(2)) / math.sqrt(region.shape[-1])
    rows = Region((region.shape[0], width), None, region.start * width, region.stop * width)
    return base(base_of_adapter(name), rows).view(-1, width).double().norm(dim=1).float()


def merged(base: Tensor, parts: dict[str, Tensor], adapt: Adapt) -> Tensor:
    """A weight (outputs, inputs) with its adapter in it: W + alpha/rank · B A, with DoRA row by row of its length."""
    product = (parts[LORA_B].double() @ parts[LORA_A].double()) * (adapt.alpha / adapt.rank)
    weight = base.double() + product
    if adapt.dora:
        weight = weight * (parts[MAGNITUDE].double() / weight.norm(dim=1))[:, None]
    return weight.float()


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _inner(model: LanguageModel) -> nn.Module:
    """The module whose parameters have the model's names."""
    inner: nn.Module = model.inner if isinstance(model, CausalLM) else model
    return inner


def _ends(model: LanguageModel) -> list[Any]:
    """Embedding and head."""
    if isinstance(model, CausalLM):
        found = [model.inner.get_input_embeddings(), model.inner.get_output_embeddings()]
        return [module for module in found if module is not None]
    decoder: Any = model.model  # adapters aren't beside an LSTM
    return [decoder.embed_tokens, model.lm_head]


def _peft() -> Any:
    try:
        with contextlib.redirect_stderr(None), quiet_torchao(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import peft
    except ImportError as error:
        raise ConfigError("adapt=lora needs peft, which isn't installed: pip install 'banyan-train[adapt]'.") from error
    return peft

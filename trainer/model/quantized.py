"""QLoRA (Dettmers et al., 2023): the layers that adapters are beside in 4 bits, by bitsandbytes.

NF4 in blocks of 64, whose scales are quantised again, as in the paper. What isn't beside an adapter keeps its numbers.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config import Adapt
from trainer.errors import ConfigError, require
from trainer.model.region import Region

PACKAGE = "bitsandbytes"
KIND = "nf4"
DTYPE = torch.bfloat16  # that weights are quantised from, wherever that is done


def require_quantization(adapt: Adapt, device: torch.device) -> None:
    """Refuses adapt.quantize without bitsandbytes or a GPU."""
    if adapt.quantize == "none":
        return
    require(
        device.type == "cuda",
        f"adapt.quantize={adapt.quantize}: {PACKAGE} needs a GPU, and the ranks are on the {device.type}; use "
        "adapt.quantize=none.",
    )
    _bitsandbytes(f"adapt.quantize={adapt.quantize}")


def is_quantized(parameter: object) -> bool:
    """Whether a parameter is one of bitsandbytes', whose elements are packed."""
    return type(parameter).__name__ == "Params4bit"


def quantize_layers(model: nn.Module, names: Iterable[str], compute_dtype: torch.dtype) -> None:
    """Replaces linear layers of a model on the meta device by ones whose weights will be of 4 bits."""
    package = _bitsandbytes("adapt.quantize=4bit")
    for name in names:
        old: Any = model.get_submodule(name)
        new = package.nn.Linear4bit(
            old.in_features,
            old.out_features,
            bias=old.bias is not None,
            compute_dtype=compute_dtype,
            compress_statistics=True,
            quant_type=KIND,
            device="meta",
        )
        new.bias = old.bias
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, new)
    model.is_loaded_in_4bit = True  # type: ignore[assignment]  # by which peft takes its layers for such ones


@torch.no_grad()
def fill_quantized(model: nn.Module, read: Callable[[str, Region], Tensor], device: torch.device) -> None:
    """Gives layers of 4 bits their weights, which `read` has by the model's names: one at a time is whole."""
    package = _bitsandbytes("adapt.quantize=4bit")
    names = {parameter: name for name, parameter in model.named_parameters()}
    for layer in model.modules():
        weight: Any = layer._parameters.get("weight")  # adapters have the base's as an attribute
        if not is_quantized(weight):
            continue
        values = read(names[weight], Region.of_slice(tuple(weight.shape), None)).view(weight.shape).to(DTYPE)
        packed = package.nn.Params4bit(
            values, requires_grad=False, compress_statistics=True, quant_type=KIND, module=layer
        )
        layer.weight = packed.to(device)


@torch.no_grad()
def round_trip(weight: Tensor) -> Tensor:
    """What a weight (outputs, inputs) is to a model that holds it in 4 bits; fp32, on the CPU."""
    functional: Any = _bitsandbytes("adapt.quantize=4bit: merging adapters").functional
    packed, state = functional.quantize_4bit(weight.to(DTYPE), quant_type=KIND, compress_statistics=True)
    values: Tensor = functional.dequantize_4bit(packed, state)
    return values.view(weight.shape).float()


def _bitsandbytes(what: str) -> Any:
    if importlib.util.find_spec(PACKAGE) is None:
        raise ConfigError(f"{what} needs {PACKAGE}, which isn't installed: pip install 'banyan-train[qlora]'.")
    import bitsandbytes

    return bitsandbytes

"""Matrices in 8 bits, a scale for each row (torchao's Int8WeightOnlyConfig), as transformers stores and reads them.

    model.layers.0.mlp.up_proj.weight  →  model.layers.0.mlp.up_proj._weight_qdata, …_scale, …_zero_point

What is stored is numbers alone: nothing of a file names code.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.errors import ConfigError, InputError
from trainer.machine.quiet import quiet_torchao
from trainer.model.build import LanguageModel
from trainer.model.decoder import Transformer
from trainer.model.hugging_face.safetensors_folder import StoredTensor

PARTS = ("zero_point", "qdata", "scale")
DATA = "qdata"
CONFIG = "quantization_config"
TYPE = "Int8WeightOnlyConfig"


def quantized_names(model: LanguageModel) -> list[str]:
    """The weights that are stored in 8 bits: of every linear layer but the head, which decides each token."""
    inner: Any = model if isinstance(model, Transformer) else model.inner
    head = model.lm_head if isinstance(model, Transformer) else inner.get_output_embeddings()
    return [
        f"{name}.weight"
        for name, module in inner.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    ]


def stored_part(weight: str, part: str) -> str:
    """The name under which transformers stores a part of a weight."""
    module, _, leaf = weight.rpartition(".")
    return f"{module}._{leaf}_{part}"


@torch.no_grad()
def quantize(weight: Tensor) -> Any:
    """A matrix as torchao's Int8Tensor. ConfigError where torchao isn't installed."""
    torchao = _torchao()
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    torchao.quantize_(linear, torchao.Int8WeightOnlyConfig(version=2))
    return linear.weight


def quantization_config() -> dict[str, Any]:
    """The quantization_config by which transformers knows such a folder."""
    from transformers import TorchAoConfig

    config: dict[str, Any] = TorchAoConfig(_torchao().Int8WeightOnlyConfig(version=2)).to_dict()
    return config


def file_metadata(shapes: Mapping[str, tuple[int, ...]], names: list[str], dtype: torch.dtype) -> dict[str, str]:
    """What the header of a file says of tensors, as torchao writes it: which are in parts, and how."""
    import json

    with quiet_torchao():
        from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    metadata = {name: json.dumps({"_type": "Tensor"}) for name in shapes}
    for width in {shapes[name][1] for name in names}:
        _, one = flatten_tensor_state_dict({"m.weight": quantize(torch.ones(1, width, dtype=dtype))})
        metadata |= {name: one["m.weight"] for name in names if shapes[name][1] == width}
    return metadata | {"tensor_names": json.dumps(list(shapes))}


def is_int8(config: Mapping[str, Any], source: Path) -> bool:
    """Whether a config.json describes such a folder. InputError for any other kind of quantized weights."""
    found = config.get(CONFIG)
    if found is None:
        return False
    kind = found.get("quant_type") if isinstance(found, Mapping) else None
    kind = kind.get("default") if isinstance(kind, Mapping) else None
    named = kind.get("_type") if isinstance(kind, Mapping) else None
    if not isinstance(found, Mapping) or found.get("quant_method") != "torchao" or named != TYPE:
        raise InputError(
            f"{source}: its quantization_config isn't one that is read here, which is torchao's {TYPE}; give the "
            "folder with weights in fp32, fp16 or bf16."
        )
    return True


def join_parts(parts: Mapping[str, Tensor], dtype: torch.dtype) -> Any:
    """An Int8Tensor from its parts, for products in a dtype."""
    kind = type(quantize(torch.ones(1, parts[DATA].shape[1])))
    block = [1, parts[DATA].shape[1]]
    return kind(parts[DATA], parts["scale"].to(dtype), zero_point=parts["zero_point"], block_size=block, dtype=dtype)


def read_parts(weight: str, tensors: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
    """The parts of a weight."""
    from safetensors import safe_open

    parts = {}
    for part in PARTS:
        name = stored_part(weight, part)
        with safe_open(tensors[name].file, framework="pt") as file:
            parts[part] = file.get_tensor(name).clone()  # at an address that suits any kernel, which a file's may not
    return parts


def check_parts(weight: str, shape: tuple[int, ...], tensors: Mapping[str, StoredTensor], folder: Path) -> None:
    """InputError unless the parts of a weight are there, of the right sizes and kinds of numbers."""
    wanted = {"qdata": shape, "scale": (shape[0], 1), "zero_point": (shape[0], 1)}
    for part, size in wanted.items():
        found = tensors.get(stored_part(weight, part))
        whole = part != "scale"
        if found is None or found.shape != size or (found.dtype == "I8") != whole or not (whole or "F" in found.dtype):
            raise InputError(
                f"{folder}: {stored_part(weight, part)} isn't there, or no {size} of int8; export it again."
            )


def _torchao() -> Any:
    try:
        with quiet_torchao(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torchao.quantization
    except ImportError:
        raise ConfigError(
            "format=int8, and folders written by it, need the package torchao, which isn't installed: pip install "
            "'banyan-train[adapt]'."
        ) from None
    return torchao.quantization

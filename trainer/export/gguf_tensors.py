"""The tensors of a GGUF file: Hugging Face's by llama.cpp's names, with the rows of queries and keys in its order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from trainer.errors import InputError
from trainer.export.source import ExportSource
from trainer.model.hugging_face.tensor_files import Tensor

BLOCK = 32  # numbers that share a scale in Q8_0 and Q4_0: rows must be whole blocks
ROPE_FREQUENCIES = "rope_freqs.weight"


@dataclass(frozen=True)
class GgufTensor:
    """A tensor to write under `name` as numbers of `type` (of gguf.GGMLQuantizationType)."""

    name: str
    type: Any
    source: Tensor

    @property
    def dtype(self) -> np.dtype:
        """Of the numbers that are written: bytes where it is quantized."""
        return np.dtype({"F32": np.float32, "F16": np.float16}.get(self.type.name, np.uint8))

    @property
    def byte_shape(self) -> tuple[int, ...]:
        """Its shape, of bytes where it is quantized."""
        import gguf

        shape = self.source.shape
        return shape if self.dtype != np.uint8 else tuple(gguf.quant_shape_to_byte_shape(shape, self.type))

    def values(self) -> np.ndarray:
        """Its content."""
        import gguf

        values = self.source.load().reshape(self.source.shape).float().numpy()
        return np.ascontiguousarray(gguf.quants.quantize(values, self.type))


def tensors_of(source: ExportSource, sizes: Mapping[str, Any], kind: str, quantization: str) -> Iterator[GgufTensor]:
    """Every tensor of the file. `kind` is GGUF's name of the architecture, `sizes` the fields that decide the model.

    Norms, biases and other vectors are F32; embedding and head of a Q4_0 file are Q8_0, for they decide each token; a
    matrix whose rows aren't whole blocks is F16. A head that is the embedding is left out.
    """
    import gguf

    types = gguf.GGMLQuantizationType
    arch = next(number for number, text in gguf.MODEL_ARCH_NAMES.items() if text == kind)
    names = gguf.get_tensor_name_map(arch, sizes["num_hidden_layers"])
    for tensor in source.tensors():
        if sizes["tie_word_embeddings"] and tensor.name == "lm_head.weight":
            continue
        name = names.get_name(tensor.name, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise InputError(f"{tensor.name}: GGUF has no place for it in a {kind}; export format=hf.")
        if kind == "llama":
            tensor = _in_pairs(tensor, sizes)
        asked = types[quantization.upper()]
        if asked == types.Q4_0 and name in ("token_embd.weight", "output.weight"):
            asked = types.Q8_0
        if len(tensor.shape) == 1:
            asked = types.F32
        elif asked in (types.Q8_0, types.Q4_0) and tensor.shape[-1] % BLOCK:
            asked = types.F16
        yield GgufTensor(name, asked, tensor)


def _in_pairs(tensor: Tensor, sizes: Mapping[str, Any]) -> Tensor:
    """Rows of a query or key projection in llama.cpp's order: its rotary positions turn neighbours, Hugging Face's turn
    a row of the first half of a head with one of the second."""
    heads = {"q_proj": sizes["num_attention_heads"], "k_proj": sizes["num_key_value_heads"]}
    module = tensor.name.split(".")[-2] if "." in tensor.name else ""
    if module not in heads:
        return tensor
    return Tensor(tensor.name, tensor.shape, partial(_paired, tensor, heads[module]))


def _paired(tensor: Tensor, heads: int) -> torch.Tensor:
    rows = tensor.load().reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return rows.transpose(1, 2).reshape(tensor.shape)


def rope_factors(rope: Mapping[str, Any], theta: float, head_dim: int) -> Tensor:
    """By what rotary frequencies are divided in Llama 3.1 and later (rope_type=llama3): long waves are stretched."""
    factor, low, high = (float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    trained = float(rope["original_max_position_embeddings"])
    waves = 2 * math.pi * theta ** (torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    smooth = (trained / waves - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    factors = torch.where(waves < trained / high, 1.0, torch.where(waves > trained / low, factor, between)).float()
    return Tensor(ROPE_FREQUENCIES, (head_dim // 2,), lambda: factors)

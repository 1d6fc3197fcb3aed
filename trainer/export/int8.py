"""format=int8: matrices in 8 bits, a quarter of fp32, by torchao; a folder that transformers and `generate` read.

banyan export run.dir=runs/NAME format=int8

What that does to the loss is measured on the run's validation sets, printed and written to int8.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trainer.config import ExportSettings
from trainer.errors import InputError
from trainer.evaluate.loss import Score
from trainer.export.hugging_face import DTYPES, write_beside_weights
from trainer.export.source import ExportSource
from trainer.machine.durable import write_json
from trainer.model.build import LanguageModel, build_on_meta
from trainer.model.decoder import Transformer
from trainer.model.hugging_face import int8_weights
from trainer.model.hugging_face.tensor_files import Tensor, write_tensors


def folder_suffix(settings: ExportSettings) -> str:
    """The format."""
    return "-int8"


def write(folder: Path, source: ExportSource, settings: ExportSettings) -> str:
    """Fills the folder, matrix by matrix, and says what became of the loss."""
    name, dtype = DTYPES[settings.dtype]
    names = int8_weights.quantized_names(build_on_meta(source.model))
    if not names or source.model.num_experts:
        raise InputError("format=int8 takes the linear layers of a dense model, and this one has none; use format=hf.")
    stated = int8_weights.file_metadata(source.shapes, names, dtype)
    tensors = list(_tensors(source, set(names), dtype))
    written = write_tensors(folder, tensors, dtype, settings.shard_bytes, metadata=stated)
    write_beside_weights(folder, source, {"dtype": name, int8_weights.CONFIG: int8_weights.quantization_config()})
    loss = _measure(folder, source, names)
    return f"{source.described}, int8 ({len(names)} matrices), {written:,} bytes of weights; {loss}"


def _tensors(source: ExportSource, names: set[str], dtype: torch.dtype) -> Iterator[Tensor]:
    for tensor in source.tensors():
        if tensor.name not in names:
            yield replace(tensor, dtype=dtype)
            continue
        rows, columns = tensor.shape
        for part, size, kind in (
            ("qdata", (rows, columns), torch.int8),
            ("scale", (rows, 1), dtype),
            ("zero_point", (rows, 1), torch.int8),
        ):
            load = partial(_part, tensor, part, dtype)
            yield Tensor(int8_weights.stored_part(tensor.name, part), size, load, kind)


def _part(tensor: Tensor, part: str, dtype: torch.dtype) -> torch.Tensor:
    found: torch.Tensor = getattr(int8_weights.quantize(tensor.load().reshape(tensor.shape).to(dtype)), part)
    return found


def _measure(folder: Path, source: ExportSource, names: list[str]) -> str:
    """The loss on each validation set before and after, in words; written to int8.json as well."""
    model = source.load()
    before = source.score(model)
    if not before:
        return "its loss wasn't measured, for want of a validation set"
    in_8_bits(model, names)
    after = source.score(model)
    write_json(folder / "int8.json", {name: _change(before[name], after[name]) for name in before})
    return "; ".join(_in_words(name, before[name], after[name]) for name in before)


def in_8_bits(model: LanguageModel, names: list[str]) -> None:
    """Replaces the weights of a model by what is stored of them."""
    inner: Any = model if isinstance(model, Transformer) else model.inner
    for name in names:
        module = inner.get_submodule(name.rpartition(".")[0])
        module.weight = int8_weights.quantize(module.weight.detach())


def _change(before: Score, after: Score) -> dict[str, object]:
    return {"before": asdict(before), "after": asdict(after), "change": after.loss - before.loss}


def _in_words(name: str, before: Score, after: Score) -> str:
    return (
        f"loss on {name}: {before.loss:.6f} → {after.loss:.6f} {before.scale} ({after.loss - before.loss:+.6f}, "
        f"{before.tokens:,} {before.unit})"
    )

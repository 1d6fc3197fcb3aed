"""format=hf: a folder that transformers loads, and all that reads its folders."""

from __future__ import annotations

from pathlib import Path

import torch

from trainer.config import ExportSettings
from trainer.data.tokens.tokenizer import CONFIG, FILE, Tokenizer, copy_tokenizer
from trainer.export.source import ExportSource
from trainer.machine.durable import write_json, write_text
from trainer.model.hugging_face.config_json import read_json_object
from trainer.model.hugging_face.tensor_files import write_tensors

DTYPES = {"fp32": ("float32", torch.float32), "bf16": ("bfloat16", torch.bfloat16)}


def folder_suffix(settings: ExportSettings) -> str:
    """Nothing: it is the usual format."""
    return ""


def write(folder: Path, source: ExportSource, settings: ExportSettings) -> str:
    """Fills the folder, tensor by tensor."""
    name, dtype = DTYPES[settings.dtype]
    written = write_tensors(folder, source.tensors(), dtype, settings.shard_bytes)
    write_beside_weights(folder, source, {"dtype": name})
    kind = source.architecture["architectures"][0]
    return f"{kind}, {source.described}, {settings.dtype}, {written:,} bytes of weights"


def write_beside_weights(folder: Path, source: ExportSource, changes: dict[str, object]) -> None:
    """config.json with changes, generation_config.json, and the tokenizer's files."""
    write_json(folder / "config.json", source.architecture | changes)
    write_json(folder / "generation_config.json", source.generation)
    copy_tokenizer(source.tokenizer_folder, folder)
    if source.mask_token is not None:
        _name_mask(folder, source.tokenizer.with_special([source.mask_token]), source.mask_token)


def _name_mask(folder: Path, tokenizer: Tokenizer, mask: str) -> None:
    """Tells the tokenizer which token is the mask, that it had or that is above its vocabulary."""
    config = read_json_object(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    write_json(folder / CONFIG, config | {"mask_token": mask})
    write_text(folder / FILE, tokenizer.content)

"""Initial weights of a model of transformers', from the safetensors files of its folder (model.path).

Where the files have the parameters under their own names, every rank reads just what it holds. Some files have old
names, or experts one by one: those transformers reads, whole on every rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trainer.config import Model
from trainer.engine.hf_folder import INDEX, SINGLE, FolderReader
from trainer.engine.region import Source
from trainer.errors import InputError
from trainer.model.causal_lm import CausalLM, load_inner

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def has_weights(folder: Path) -> bool:
    """Whether a folder has weights to begin with. InputError if they are pickles, and would be left aside."""
    if any((folder / name).is_file() for name in (SINGLE, INDEX)):
        return True
    pickle = next((file.name for pattern in PICKLES for file in sorted(folder.glob(pattern))), None)
    if pickle:
        raise InputError(
            f"{folder / pickle}: weights are read from safetensors only, since pickles run code; have transformers "
            "load and save the model, and set model.path to that folder."
        )
    return False


def open_inner_weights(settings: Model, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Source, str]:
    """The weights of the folder of a model of transformers', and in words where they are from."""
    folder = Path(str(settings.path))
    names = _names_on_disk(settings, shapes, FolderReader(folder).shapes())
    if names is not None:
        return FolderReader(folder, lambda name, shape: [(names[name], shape)]).read, str(folder)
    weights = dict(load_inner(settings).named_parameters())
    how = f"{folder} (its names are translated by transformers, which reads all of it on every rank)"
    return lambda name, kind, region: region.cut(weights[name].detach()), how


def _names_on_disk(
    settings: Model, shapes: Mapping[str, tuple[int, ...]], stored: Mapping[str, tuple[int, ...]]
) -> dict[str, str] | None:
    """The tensor that holds each parameter, or None unless all are there, and nothing else that counts.

    Files of base models leave out the prefix of what is around them, as GPT-2's do.
    """
    with torch.device("meta"):
        inner: Any = CausalLM(settings).inner
    prefix = f"{inner.base_model_prefix}."
    names = {name: name if name in stored else name.removeprefix(prefix) for name in shapes}
    if any(stored.get(name) != shapes[parameter] for parameter, name in names.items()):
        return None
    tied = {name for name, _ in inner.named_parameters(remove_duplicate=False)}
    buffers = {name for name, _ in inner.named_buffers()}
    spare = tied | buffers | {name.removeprefix(prefix) for name in tied | buffers}
    return names if stored.keys() <= spare | set(names.values()) else None

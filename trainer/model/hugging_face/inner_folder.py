"""Initial weights of a Hugging Face model, from the safetensors files of its folder (model.path).

Where the files have the parameters under their own names, every rank reads just what it holds. Some files have old
names, or experts one by one: those transformers reads, whole on every rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trainer.config import Model
from trainer.errors import InputError
from trainer.machine.hub_name import local_folder
from trainer.model.hugging_face.causal_lm import load_inner
from trainer.model.hugging_face.config_json import brief
from trainer.model.hugging_face.headed import wrap
from trainer.model.hugging_face.safetensors_folder import StoredTensor, find_tensors, holds_tensors, require_floats
from trainer.model.hugging_face.tensor_files import FolderReader
from trainer.model.region import Source

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
QUANTIZED = ("F8", "F6", "F4", "I8", "I4")  # what begins so isn't a float that weights are trained from


def has_weights(folder: Path) -> bool:
    """Whether a folder has weights to begin with. InputError if they are pickles, and would be left aside."""
    if holds_tensors(folder):
        return True
    pickle = next((file.name for pattern in PICKLES for file in sorted(folder.glob(pattern))), None)
    if pickle:
        raise InputError(
            f"{folder / pickle}: weights are read from safetensors only, since pickles run code; have transformers "
            "load and save the model, and set model.path to that folder."
        )
    return False


def holds_two_heads(settings: Model) -> bool:
    """Whether a folder holds different values for parameters that its config.json ties.

    transformers doesn't tie them, then. InputError where it would tie some of several, which no config.json can say.
    """
    folder = local_folder(str(settings.path))
    if not holds_tensors(folder):
        return False
    inner, reader = _inner(settings), FolderReader(folder)
    apart: list[str] = []
    together: list[str] = []
    for target, source in inner.all_tied_weights_keys.items():
        names = [_name_on_disk(inner, name, reader.tensors) for name in (target, source)]
        both = all(name in reader.tensors for name in names)
        (apart if both and not reader.equal(*names) else together).append(target)
    if apart and together:
        raise InputError(
            f"{folder}: {apart[0]} has values of its own, and {together[0]} hasn't, though config.json ties both; set "
            "tie_word_embeddings=false there, and give the files both."
        )
    return bool(apart)


def open_inner_weights(settings: Model, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Source, str]:
    """The weights of the folder of a Hugging Face model, and in words where they are from.

    InputError if they aren't the model's, whose parameters have these `shapes`.
    """
    folder = local_folder(str(settings.path))
    tensors = find_tensors(folder)
    inner = _inner(settings)
    _require_enough(folder, inner, tensors, shapes)
    names = _names_on_disk(inner, shapes, tensors)
    if names is not None:
        require_floats(tensors, names.values())
        return FolderReader(folder, lambda name, shape: [(names[name], shape)]).read, str(folder)
    weights = dict(load_inner(settings).named_parameters())
    for name in shapes.keys() | weights.keys():
        if name not in shapes or name not in weights or not weights[name].isfinite().all():
            raise InputError(f"{folder}: {name} isn't there, has no place, or holds NaN or infinite weights.")
    how = f"{folder} (its names are translated by transformers, which reads all of it on every rank)"
    return lambda name, kind, region: region.cut(weights[name].detach()), how


def _require_enough(
    folder: Path, inner: Any, tensors: Mapping[str, StoredTensor], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuses files that can't hold the model, before it is made as large as its config.json says."""
    held, needed = sum(stored.elements for stored in tensors.values()), sum(map(math.prod, shapes.values()))
    if needed > held:
        absent = next((name for name in shapes if _name_on_disk(inner, name, tensors) not in tensors), "none")
        raise InputError(
            f"{folder}: its files hold {held:,} numbers, the model of its config.json has {needed:,} parameters "
            f"({absent} is missing, or others are small); mend it (or model.overrides), or move the weights away to "
            "train from scratch."
        )
    for name, stored in tensors.items():
        if stored.dtype.startswith(QUANTIZED):
            raise InputError(
                f"{stored.file}: {brief(name)} is of {stored.dtype}: quantized weights can't be trained; give a folder "
                "with weights in fp32, fp16 or bf16."
            )


def _names_on_disk(
    inner: Any, shapes: Mapping[str, tuple[int, ...]], stored: Mapping[str, StoredTensor]
) -> dict[str, str] | None:
    """The tensor that holds each parameter, or None unless all are there, and nothing else that counts.

    Files of base models leave out the prefix of what is around them, as GPT-2's do.
    """
    names = {name: _name_on_disk(inner, name, stored) for name in shapes}
    if any(name not in stored or stored[name].shape != shapes[parameter] for parameter, name in names.items()):
        return None
    tied = {name: parameter.shape for name, parameter in inner.named_parameters(remove_duplicate=False)}
    buffers = {name: buffer.shape for name, buffer in inner.named_buffers()}
    spare = {_name_on_disk(inner, name, stored): shape for name, shape in (tied | buffers).items()}
    left = stored.keys() - set(names.values())
    return names if all(name in spare and stored[name].shape == spare[name] for name in left) else None


def _name_on_disk(inner: Any, name: str, stored: Mapping[str, StoredTensor]) -> str:
    return name if name in stored else name.removeprefix(f"{inner.base_model_prefix}.")


def _inner(settings: Model) -> Any:
    with torch.device("meta"):
        return wrap(settings).inner

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
from torch import Tensor

from trainer.config import Model
from trainer.errors import InputError
from trainer.machine.hub_name import local_folder
from trainer.model.hugging_face.causal_lm import load_inner
from trainer.model.hugging_face.claimed_sizes import misfit
from trainer.model.hugging_face.config_json import brief, read_json_object
from trainer.model.hugging_face.headed import wrap
from trainer.model.hugging_face.heads import ALWAYS_ZERO, CAUSAL, HEADS
from trainer.model.hugging_face.inner_weights import InnerWeights
from trainer.model.hugging_face.safetensors_folder import StoredTensor, find_tensors, holds_tensors, require_floats
from trainer.model.hugging_face.tensor_files import FolderReader
from trainer.model.region import Region, Source

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


def open_inner_weights(
    settings: Model, shapes: Mapping[str, tuple[int, ...]], *, seed: int | None = None
) -> tuple[Source, str]:
    """The weights of the folder of a Hugging Face model, and in words where they are from.

    InputError if they aren't the model's, whose parameters have these `shapes`. A new head over what a language model
    has learnt is drawn by the `seed`, where there is one.
    """
    folder = local_folder(str(settings.path))
    tensors = find_tensors(folder)
    inner = _inner(settings)
    if settings.head != CAUSAL:
        found = _open_base(settings, inner, shapes, tensors, seed)
        if found is not None:
            return found
    _require_enough(folder, inner, tensors, shapes)
    names = _names_on_disk(inner, shapes, tensors)
    if names is not None:
        require_floats(tensors, names.values())
        return FolderReader(folder, lambda name, shape: [(names[name], shape)]).read, str(folder)
    try:
        weights = dict(load_inner(settings).named_parameters())
    except InputError as error:  # transformers doesn't say which
        other = [each for each in _misfits(inner, tensors, shapes) if each[1] is not None]
        raise InputError(f"{folder}: {_first(other, folder)}.") if other else error from error
    for name in shapes.keys() | weights.keys():
        if name not in shapes or name not in weights or not weights[name].isfinite().all():
            raise InputError(f"{folder}: {name} isn't there, has no place, or holds NaN or infinite weights.")
    how = f"{folder} (its names are translated by transformers, which reads all of it on every rank)"
    return lambda name, kind, region: region.cut(weights[name].detach()), how


def _open_base(
    settings: Model,
    inner: Any,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, StoredTensor],
    seed: int | None,
) -> tuple[Source, str] | None:
    """The weights of a model with a head that isn't causal: its own, or those of another head over the same base.

    None where the files' names are others: then transformers must translate them.
    """
    folder = local_folder(str(settings.path))
    names = {name: _name_on_disk(inner, name, tensors) for name in shapes}
    base = f"{inner.base_model_prefix}."
    lacking = [name for name, stored in names.items() if stored not in tensors]
    fresh = [name for name in lacking if not name.startswith(base) or ".pooler." in name]
    if len(fresh) < len(lacking) or (fresh and not HEADS[settings.head].is_new):
        return None
    for name, stored in names.items():
        if stored in tensors and tensors[stored].shape != shapes[name]:
            raise InputError(
                f"{folder}: {brief(stored)} is {tensors[stored].shape}, and the model wants {shapes[name]}: its head "
                "was made for other labels, or its config.json is another model's; give a folder without that head, or "
                "mend it."
            )
    held = {name: stored for name, stored in names.items() if name not in fresh}
    if not fresh:
        _require_same_labels(settings, folder)
    elif seed is None:
        raise InputError(f"{folder}: {fresh[0]} isn't there; give a folder with the whole model.")
    _require_zero(folder, tensors)
    require_floats(tensors, held.values())
    reader = FolderReader(folder, lambda name, shape: [(held[name], shape)])
    if not fresh:
        return reader.read, str(folder)
    drawn = InnerWeights(settings, seed or 0)

    def read(name: str, kind: str, region: Region) -> Tensor:
        return reader.read(name, kind, region) if name in held else region.cut(drawn.make(name))

    return read, f"{folder} (its names are all there but {len(fresh)} of a new head, drawn by the seed)"


def _require_same_labels(settings: Model, folder: Path) -> None:
    """Refuses a head that was trained on other labels, or on these in another order."""
    wanted = settings.overrides.get("id2label")
    config = read_json_object(folder / "config.json")
    if wanted is None or not HEADS[settings.head].is_new or "id2label" not in config:
        return
    if len(wanted) == len(config["id2label"]) == 1:
        return  # one number has no order, whatever its name
    if {str(key): value for key, value in config["id2label"].items()} != wanted:
        raise InputError(
            f"{folder}: its head was trained on the labels {', '.join(map(str, config['id2label'].values()))[:120]} in "
            f"this order, and the data have {', '.join(wanted.values())[:120]}: prepare them with data.labels in its "
            "order."
        )


def _require_zero(folder: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Refuses a stored buffer that would be lost: BART's, which is zero in all that is published."""
    for name in ALWAYS_ZERO:
        if name in tensors:
            whole = Region.of_slice(tensors[name].shape, None)
            if FolderReader(folder, lambda stored, shape: [(stored, shape)]).read(name, "", whole).any():
                raise InputError(f"{folder}: {name} isn't zero, which checkpoints wouldn't hold; give another model.")


def _require_enough(
    folder: Path, inner: Any, tensors: Mapping[str, StoredTensor], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuses files that can't hold the model, before it is made as large as its config.json says."""
    held, needed = sum(stored.elements for stored in tensors.values()), sum(map(math.prod, shapes.values()))
    if needed > held:
        raise InputError(
            f"{folder}: its files hold {held:,} numbers, the model of its config.json has {needed:,} parameters "
            f"({_first(_misfits(inner, tensors, shapes), folder)}); mend it (or model.overrides), or move the weights "
            "away to train from scratch."
        )
    for name, stored in tensors.items():
        if stored.dtype.startswith(QUANTIZED):
            raise InputError(
                f"{stored.file}: {brief(name)} is of {stored.dtype}: quantized weights can't be trained; give a folder "
                "with weights in fp32, fp16 or bf16."
            )


Misfit = tuple[str, tuple[int, ...] | None, tuple[int, ...]]


def _misfits(inner: Any, tensors: Mapping[str, StoredTensor], shapes: Mapping[str, tuple[int, ...]]) -> list[Misfit]:
    """Parameters that the files hold in other shapes, then those that they don't hold."""
    held = {name: tensors.get(_name_on_disk(inner, name, tensors)) for name in shapes}
    other: list[Misfit] = [
        (name, found.shape, shapes[name]) for name, found in held.items() if found and found.shape != shapes[name]
    ]
    return other + [(name, None, shapes[name]) for name, found in held.items() if found is None]


def _first(misfits: list[Misfit], folder: Path) -> str:
    if not misfits:
        return "under other names"
    return misfit(*misfits[0], read_json_object(folder / "config.json"))


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

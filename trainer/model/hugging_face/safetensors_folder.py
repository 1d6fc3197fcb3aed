"""Which tensors a Hugging Face folder holds: file, dtype and shape of each, from the headers of its safetensors files.

    model.safetensors                                                       or
    model-00001-of-00002.safetensors, …, model.safetensors.index.json       where one file would be too large

All of it comes from others: an index names neighbours only, and must say what the files hold. Torch isn't imported.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import Model
from trainer.errors import InputError
from trainer.machine.bare_name import bare_name
from trainer.model.hugging_face.architecture import EMBEDDING, HEAD, is_spare, stored_tensors
from trainer.model.hugging_face.claimed_sizes import misfit
from trainer.model.hugging_face.config_json import brief, read_json_object
from trainer.model.sizes import Shapes, decoder_shapes

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LARGEST_INDEX = 256 * 2**20  # bytes: a line for each tensor
LAYER = re.compile(r"model\.layers\.(\d{1,9})\.")
FLOATS = ("F64", "F32", "F16", "BF16")  # safetensors' names of what weights can be read from


@dataclass(frozen=True)
class StoredTensor:
    """A tensor on disk."""

    file: Path
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def holds_tensors(folder: Path) -> bool:
    """Whether there are weights in a folder. InputError for what must have been some: to leave it aside is worse."""
    for path in (folder / SINGLE, folder / INDEX):
        if path.is_file():
            return True
        if os.path.lexists(path):
            raise InputError(f"{path}: a folder, a pipe or a link that leads to no file; fetch the file again.")
    part = next(iter(sorted(folder.glob("*.safetensors"))), None)
    if part:
        raise InputError(f"{part}: weights, but there is no {SINGLE} and no {INDEX} here; fetch it as well.")
    return False


def find_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a folder, by name. InputError for what is missing, broken, contradictory or no weights.

    As in transformers, model.safetensors goes before an index, and files count whole.
    """
    if (folder / SINGLE).is_file():
        return _tensors_in(folder / SINGLE)
    if not (folder / INDEX).is_file():
        raise InputError(
            f"{folder}: no {SINGLE} and no {INDEX}; weights are read from safetensors only: have transformers save it."
        )
    index = folder / INDEX
    weight_map = read_json_object(index, largest=LARGEST_INDEX).get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise InputError(f"{index}: no weight_map, which says which file holds each tensor; fetch the file again.")
    found: dict[str, StoredTensor] = {}
    for file in dict.fromkeys(bare_name(name, index) for name in weight_map.values()):
        if not (folder / file).is_file():
            raise InputError(f"{index}: {file} isn't there; fetch it as well.")
        for name, stored in _tensors_in(folder / file).items():
            if name in found:
                raise InputError(f"{folder}: {brief(name)} is in {found[name].file.name} and in {file}; remove one.")
            found[name] = stored
    for name, file in weight_map.items():
        if name not in found or found[name].file.name != file:
            raise InputError(f"{index}: {brief(name)} isn't in {file}; fetch both files again.")
    return found


def _tensors_in(path: Path) -> dict[str, StoredTensor]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as opened:
            names = opened.keys()
            slices = {name: opened.get_slice(name) for name in names}
            found = {name: StoredTensor(path, str(s.get_dtype()), tuple(s.get_shape())) for name, s in slices.items()}
    except Exception as error:  # safetensors has an exception of its own
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{path}: can't be read as safetensors ({reason}); fetch the file again.") from error
    return found


def require_tensors(folder: Path, model: Model) -> None:
    """Refuses a folder whose tensors aren't those of a model of ours. InputError names the tensor or the field."""
    tensors, layers = find_tensors(folder), model.num_hidden_layers
    held = {int(found[1]) for name in tensors if (found := LAYER.match(name))}
    if held and held != set(range(layers)) and len(held) != layers:
        raise InputError(
            f"{folder / 'config.json'}: num_hidden_layers={layers}, but the files hold {len(held)} layers."
        )
    if layers * max(1, model.num_experts) > len(tensors):  # before a list as long as that is made
        raise InputError(
            f"{folder / 'config.json'}: num_hidden_layers={layers} with num_experts={model.num_experts}, but the files "
            f"hold {len(tensors)} tensors."
        )
    shapes = decoder_shapes(model)
    wanted = {name: size for parameter, shape in shapes.items() for name, size in stored_tensors(parameter, shape)}
    if model.tie_word_embeddings and HEAD in tensors:
        wanted[HEAD] = shapes[EMBEDDING]
    require_shapes(folder, tensors, wanted, vars(model))
    for name in tensors.keys() - wanted.keys():
        if not is_spare(name):
            raise InputError(f"{folder}: {brief(name)} has no place in the model that its config.json describes.")
    require_floats(tensors, wanted)


def require_shapes(
    folder: Path, tensors: Mapping[str, StoredTensor], wanted: Shapes, config: Mapping[str, Any]
) -> None:
    """Refuses files that lack a tensor, or have it in another shape than a configuration's. InputError names both."""
    for name, shape in wanted.items():
        found = tensors[name].shape if name in tensors else None
        if found != shape:
            raise InputError(f"{folder}: {misfit(name, found, shape, config)}.")


def require_floats(tensors: Mapping[str, StoredTensor], names: Iterable[str]) -> None:
    """Refuses weights, `names` among `tensors`, that aren't plain floats. InputError names the first."""
    for name in names:
        stored = tensors[name]
        if stored.dtype not in FLOATS:
            raise InputError(
                f"{stored.file}: {brief(name)} is of {stored.dtype}, and weights are read from {', '.join(FLOATS)}; "
                "have transformers save the model in one of these."
            )

"""Weights of a Hugging Face folder, read region by region and written tensor by tensor: safetensors files only.

    model.safetensors                                                       or
    model-00001-of-00002.safetensors, …, model.safetensors.index.json       where one file would be too large

Files are mapped and only the rows that a region touches are read, so a rank never holds more than it needs of a tensor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.durable import sync, write_json
from trainer.engine.region import Region, Storage, copy
from trainer.errors import InputError
from trainer.model.hf import is_spare, stored_tensors

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
CODES = {torch.float32: "F32", torch.bfloat16: "BF16"}  # safetensors' names


# -------------------------------------------------------------------------------------------------------------- reading


# (parameter, shape) → name and shape of the tensors on disk whose elements, end to end, are the parameter's
Stored = Callable[[str, tuple[int, ...]], list[tuple[str, tuple[int, ...]]]]


class FolderReader:
    """Reads any region of any parameter from a folder's tensors; `stored` says where a parameter lies."""

    def __init__(self, folder: Path, stored: Stored = stored_tensors) -> None:
        self.folder = folder
        self._files = {name: folder / file for name, file in _find_tensors(folder).items()}
        self._open: dict[Path, Any] = {}
        self._stored = stored

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor on disk."""
        return {name: tuple(self._slice(name).get_shape()) for name in self._files}

    def check(self, shapes: Mapping[str, tuple[int, ...]], *, tied: bool) -> None:
        """Refuses a folder whose tensors aren't those of a model with parameters of these `shapes`."""
        wanted = {name: size for key, shape in shapes.items() for name, size in self._stored(key, shape)}
        for name, shape in wanted.items():
            found = tuple(self._slice(name).get_shape()) if name in self._files else "not there"
            if found != shape:
                raise InputError(f"{self.folder}: {name} is {found}, {shape} in the model that its config.json tells.")
        for name in self._files.keys() - wanted.keys():
            if not is_spare(name, tied=tied):
                raise InputError(f"{self.folder}: {name} has no place in the model that its config.json tells.")

    def read(self, parameter: str, kind: str, region: Region) -> torch.Tensor:
        """The region's elements of a parameter's weights; 1-D, fp32, on the CPU. A `region.Source`."""
        result = torch.empty(region.count, dtype=torch.float32)
        start = 0
        for name, shape in self._stored(parameter, region.shape):
            stop = start + math.prod(shape)
            copy(region, result, Region(region.shape, None, start, stop), self._storage(name))
            start = stop
        return result

    def _storage(self, name: str) -> Storage:
        def stored(start: int, stop: int) -> torch.Tensor:
            rows = self._slice(name)
            inner = math.prod(rows.get_shape()[1:])
            first = start // inner
            return rows[first : -(-stop // inner)].reshape(-1)[start - first * inner : stop - first * inner]

        return stored

    def _slice(self, name: str) -> Any:
        from safetensors import safe_open

        path = self._files[name]
        if path not in self._open:
            try:
                self._open[path] = safe_open(path, framework="pt")
            except Exception as error:  # safetensors has an exception of its own
                raise InputError(f"{path}: can't be read ({error}); fetch the file again.") from error
        return self._open[path].get_slice(name)


def _find_tensors(folder: Path) -> dict[str, str]:
    """File of every tensor of a folder."""
    from safetensors import safe_open

    if (folder / INDEX).is_file():
        return dict(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"])
    if not (folder / SINGLE).is_file():
        raise InputError(
            f"{folder}: no {SINGLE} and no {INDEX}; weights are read from safetensors only: have transformers save it."
        )
    with safe_open(folder / SINGLE, framework="pt") as opened:
        return dict.fromkeys(opened.keys(), SINGLE)


# -------------------------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True)
class Tensor:
    """A tensor to write; `load` gives its values, in fp32 and any shape, when it's its turn."""

    name: str
    shape: tuple[int, ...]
    load: Callable[[], torch.Tensor]


def write_tensors(folder: Path, tensors: Iterable[Tensor], dtype: torch.dtype, shard_bytes: int) -> int:
    """Writes tensors to files of at most `shard_bytes` (or one tensor), durably; the bytes of all. Holds one tensor."""
    shards = list(_shards(tensors, dtype, shard_bytes))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / file, shard, dtype)
        weight_map |= {tensor.name: file for tensor in shard}
    total = sum(_bytes(tensor, dtype) for shard in shards for tensor in shard)
    if len(shards) > 1:
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    return total


def _shards(tensors: Iterable[Tensor], dtype: torch.dtype, shard_bytes: int) -> Iterator[list[Tensor]]:
    shard: list[Tensor] = []
    filled = 0
    for tensor in tensors:
        size = _bytes(tensor, dtype)
        if shard and filled + size > shard_bytes:
            yield shard
            shard, filled = [], 0
        shard.append(tensor)
        filled += size
    yield shard


def _write_file(path: Path, tensors: list[Tensor], dtype: torch.dtype) -> None:
    """A safetensors file: length of the header (u64), header (JSON, padded to 8 bytes), values one after the other.

    Written by hand because safetensors' own writer wants all tensors of a file in memory.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for tensor in tensors:
        stop = start + _bytes(tensor, dtype)
        header[tensor.name] = {"dtype": CODES[dtype], "shape": list(tensor.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            values = tensor.load().to(dtype).contiguous().view(-1)
            file.write(values.view(torch.uint8).numpy().tobytes())
    sync(path)


def _bytes(tensor: Tensor, dtype: torch.dtype) -> int:
    return math.prod(tensor.shape) * dtype.itemsize

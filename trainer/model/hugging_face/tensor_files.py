"""Weights of a Hugging Face folder, read region by region and written tensor by tensor: safetensors files only.

Files are mapped and only the rows that a region touches are read, so a rank never holds more than it needs of a tensor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from trainer.errors import InputError
from trainer.machine.durable import sync, write_json
from trainer.model.hugging_face.architecture import stored_tensors
from trainer.model.hugging_face.safetensors_folder import INDEX, SINGLE, find_tensors
from trainer.model.region import Region, Storage, copy

COMPARED_AT_ONCE = 2**24  # elements
CODES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int8: "I8"}  # safetensors' names


# -------------------------------------------------------------------------------------------------------------- reading


# (parameter, shape) → name and shape of the tensors on disk whose elements, end to end, are the parameter's
StoredAs = Callable[[str, tuple[int, ...]], list[tuple[str, tuple[int, ...]]]]


class FolderReader:
    """Reads any region of any parameter from a folder's tensors; `stored` says where a parameter lies."""

    def __init__(self, folder: Path, stored: StoredAs = stored_tensors) -> None:
        self.folder = folder
        self.tensors = find_tensors(folder)
        self._open: dict[Path, Any] = {}
        self._stored = stored

    def equal(self, name: str, other: str) -> bool:
        """Whether two tensors on disk hold the same; as transformers has it, NaN is nothing's equal."""
        shape = self.tensors[name].shape
        if shape != self.tensors[other].shape:
            return False
        one, two = self._slice(name), self._slice(other)
        rows = max(1, COMPARED_AT_ONCE // max(1, math.prod(shape[1:])))
        parts = [slice(first, first + rows) for first in range(0, shape[0], rows)] if shape else [...]
        return all(torch.equal(one[part].float(), two[part].float()) for part in parts)

    def read(self, parameter: str, kind: str, region: Region) -> torch.Tensor:
        """The region's elements of a parameter's weights; 1-D, fp32, on the CPU. A `region.Source`.

        InputError for weights that aren't finite: no step could be taken from there.
        """
        result = torch.empty(region.count, dtype=torch.float32)
        start = 0
        for name, shape in self._stored(parameter, region.shape):
            stop = start + math.prod(shape)
            copy(region, result, Region(region.shape, None, start, stop), self._storage(name))
            start = stop
        if not result.isfinite().all():
            raise InputError(f"{self.folder}: {parameter} holds NaN or infinite weights; fetch another model.")
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

        path = self.tensors[name].file
        if path not in self._open:
            self._open[path] = safe_open(path, framework="pt")
        return self._open[path].get_slice(name)


# -------------------------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True)
class Tensor:
    """A tensor to write; `load` gives its values, in any shape, when it's its turn. `dtype`: None for the folder's."""

    name: str
    shape: tuple[int, ...]
    load: Callable[[], torch.Tensor]
    dtype: torch.dtype | None = None


def write_tensors(
    folder: Path,
    tensors: Iterable[Tensor],
    dtype: torch.dtype,
    shard_bytes: int,
    *,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> int:
    """Writes tensors to files of at most `shard_bytes` (or one tensor), durably; the bytes of all. Holds one tensor.

    Each file's header says `metadata` besides.
    """
    shards = list(_shards(tensors, dtype, shard_bytes))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / file, shard, dtype, metadata)
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


def _write_file(path: Path, tensors: list[Tensor], dtype: torch.dtype, metadata: Mapping[str, str]) -> None:
    """A safetensors file: length of the header (u64), header (JSON, padded to 8 bytes), values one after the other.

    Written by hand because safetensors' own writer wants all tensors of a file in memory.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    start = 0
    for tensor in tensors:
        stop = start + _bytes(tensor, dtype)
        header[tensor.name] = {
            "dtype": CODES[tensor.dtype or dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            values = tensor.load().to(tensor.dtype or dtype).contiguous().view(-1)
            file.write(values.view(torch.uint8).numpy().tobytes())
    sync(path)


def _bytes(tensor: Tensor, dtype: torch.dtype) -> int:
    return math.prod(tensor.shape) * (tensor.dtype or dtype).itemsize

"""Tensors in a safetensors file: mapped by safetensors, or of an encrypted file decrypted as far as they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.checkpoint.index import FP32_BYTES
from trainer.errors import InputError
from trainer.machine.json_file import Malformed, open_regular, parse_json
from trainer.machine.sealing.plaintext import is_sealed, size_of

FP32 = "F32"
MOST_HEADER = 100 * 2**20  # bytes, as safetensors has it


class SealedTensor:
    """A 1-D fp32 tensor in an encrypted file: a slice of it is decrypted when it is read."""

    def __init__(self, content: Any, begin: int, size: int) -> None:
        self.size = size  # elements
        self._content, self._begin = content, begin

    def __getitem__(self, where: slice) -> npt.NDArray[np.float32]:
        start, stop, _ = where.indices(self.size)
        self._content.seek(self._begin + start * FP32_BYTES)
        found = np.empty(max(0, stop - start), np.float32)
        self._content.readinto(found.view(np.uint8).data)
        return found


class TensorFile:
    """A file of 1-D fp32 tensors. InputError, or what safetensors raises, where it isn't one."""

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self._name, self._sealed = path.name, None
        try:
            self._mapped = safe_open(path, framework="pt")
        except SafetensorError:
            if not is_sealed(path):
                raise
            self._sealed = open_regular(path)
            self._begin, self._header = _read_header(path.name, self._sealed)

    def tensor(self, name: str) -> npt.NDArray[np.float32] | SealedTensor:
        """A tensor. InputError if it isn't 1-D fp32."""
        if self._sealed is None:
            stored = self._mapped.get_slice(name)
            self._check(name, str(stored.get_dtype()), list(stored.get_shape()))
            values: npt.NDArray[np.float32] = self._mapped.get_tensor(name).numpy()
            return values
        about: Any = self._header.get(name)
        try:
            dtype, shape, (begin, end) = about["dtype"], about["shape"], about["data_offsets"]
            self._check(name, dtype, shape)
            size, begin, end = int(shape[0]), int(begin), int(end)
        except (TypeError, KeyError, ValueError) as error:
            raise InputError(f"{self._name}: its header has no tensor {name}") from error
        if not 0 <= begin <= end or end - begin != size * FP32_BYTES or self._begin + end > size_of(self._sealed):
            raise InputError(f"{self._name}: {name} isn't inside the file")
        return SealedTensor(self._sealed, self._begin + begin, size)

    def _check(self, name: str, dtype: Any, shape: Any) -> None:
        if dtype != FP32 or not isinstance(shape, list) or len(shape) != 1:
            raise InputError(f"{self._name}: {name} is {dtype} {str(shape)[:60]}, not {FP32} and of one dimension")


def _read_header(name: str, file: Any) -> tuple[int, dict[str, Any]]:
    """Where the tensors begin, and what the header says of each."""
    length = int.from_bytes(file.read(8), "little")
    if length > min(MOST_HEADER, size_of(file)):
        raise InputError(f"{name}: no safetensors file")
    try:
        header = parse_json(file.read(length))
    except Malformed as error:
        raise InputError(f"{name}: no safetensors file ({error})") from error
    if not isinstance(header, dict):
        raise InputError(f"{name}: no safetensors file")
    return 8 + length, header

"""A safetensors file that ranks write together: each rank one 1-D fp32 tensor, at a place that all know beforehand.

Header and tensors are padded to pages of 4 KiB: two machines never write into one page of a shared file.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import torch
import xxhash

from trainer.checkpoint.complete import Hashed
from trainer.checkpoint.index import FP32_BYTES, part_name
from trainer.machine.sealing.plaintext import sealing

PAGE = 4096  # bytes
CHUNK = 16 * 2**20  # bytes that are hashed and written at once


@dataclass(frozen=True)
class DataFile:
    """The file of the ranks from `first` on, with the number of elements that each of them has."""

    first: int
    elements: tuple[int, ...]

    @property
    def name(self) -> str:
        """Name of the file: that of its first rank."""
        return f"{part_name(self.first)}.safetensors"

    def header(self) -> bytes:
        """All before the first tensor: the length of the JSON (u64), and the JSON padded with spaces."""
        sizes = [_padded(count * FP32_BYTES) for count in self.elements]
        tensors = {
            part_name(self.first + place): {
                "dtype": "F32",
                "shape": [size // FP32_BYTES],
                "data_offsets": [end - size, end],
            }
            for place, (size, end) in enumerate(zip(sizes, accumulate(sizes), strict=True))
        }
        text = json.dumps({"__metadata__": {"format": "pt"}, **tensors}, separators=(",", ":")).encode()
        length = _padded(8 + len(text)) - 8
        return length.to_bytes(8, "little") + text.ljust(length)

    def write(self, folder: Path, rank: int, tensors: list[torch.Tensor]) -> Hashed:
        """Writes a rank's part durably: its tensors end to end, the header before the first rank's. Its size and hash.

        Ranks write at the same time, in any order.
        """
        header, place = self.header(), rank - self.first
        start = len(header) + sum(_padded(count * FP32_BYTES) for count in self.elements[:place])
        descriptor = os.open(folder / self.name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        with open(descriptor, "wb", buffering=CHUNK) as file:
            file.seek(0 if place == 0 else start)
            filling = _padded(self.elements[place] * FP32_BYTES) - self.elements[place] * FP32_BYTES
            contents = (memoryview(tensor.numpy().data).cast("B") for tensor in tensors)
            hashed = _HashedOutput(file)
            with sealing(hashed, folder / self.name) as out:  # type: ignore[arg-type]
                if out is not hashed and len(self.elements) > 1:
                    raise ValueError("an encrypted file is of one rank")
                for content in ([header] if place == 0 else [], contents, [bytes(filling)]):
                    for values in content:
                        for at in range(0, len(values), CHUNK):
                            out.write(values[at : at + CHUNK])
            file.flush()
            os.fsync(descriptor)
        return Hashed(hashed.bytes, hashed.digest.hexdigest())


class _HashedOutput:
    """Writes to a file, and hashes what is written."""

    def __init__(self, file: BinaryIO) -> None:
        self.bytes, self.digest = 0, xxhash.xxh3_128()
        self._file = file

    def write(self, content: bytes | memoryview) -> int:
        """Takes all of it."""
        self.digest.update(content)
        self.bytes += len(content)
        return self._file.write(content)


def group_of(rank: int, world_size: int, writers: int) -> range:
    """The ranks that share a file with `rank`, of `writers` files in all; 0 is a file for each rank."""
    files = min(writers or world_size, world_size)
    number = rank * files // world_size
    first = -(-number * world_size // files)
    return range(first, -(-(number + 1) * world_size // files))


def _padded(size: int) -> int:
    return -(-size // PAGE) * PAGE

"""Reads checkpoints: fragments of named parameters in safetensors files, complete or not there at all.

    checkpoints/step-00001000/
      rank-00000.safetensors   what rank 0 holds, as one 1-D fp32 tensor; or what several ranks hold, a tensor each
      index.safetensors        which parameter, range and kind lies where in them
      state.json               step, position, data segments, configuration, shape of the run
      COMPLETE                 size and hash of every file, written last

The format knows no world size, ZeRO stage or tensor degree: a reader takes the regions that it needs from whatever
files hold them. writer.py writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from trainer.checkpoint.complete import STATE, read_complete
from trainer.checkpoint.fragment import WEIGHT
from trainer.checkpoint.index import INDEX, Index, Pieces, read_index
from trainer.checkpoint.malformed import MEND, explained
from trainer.checkpoint.state import check_state, read_object
from trainer.checkpoint.tensor_file import SealedTensor, TensorFile
from trainer.checkpoint.version_1 import read_rank_indexes
from trainer.errors import InputError
from trainer.machine.sealing.user_key import KeyProblem
from trainer.model.region import Region, Storage, copy

T = TypeVar("T")


class CheckpointReader:
    """Reads any region of any parameter from a whole checkpoint; files are mapped, only what is asked for is read.

    InputError where what the files say can't be: their hashes tell damage, not who wrote them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            files = read_complete(folder)
        except InputError as error:
            raise InputError(f"{folder}: not whole ({error})") from None
        self._state = read_object(folder)
        if self._state["format"] == 1:
            with explained(folder):
                self.index: Index = read_rank_indexes(folder, files)
        else:
            with explained(folder / INDEX):
                self.index = read_index(folder / INDEX, files)
        self._files: dict[str, TensorFile] = {}
        self._parts: dict[int, npt.NDArray[np.float32] | SealedTensor] = {}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's shape."""
        return self.index.shapes

    @cached_property
    def state(self) -> dict[str, Any]:
        """The content of state.json, its fields checked."""
        return check_state(self._state, self.folder)

    def stated(self, name: str, read: Callable[[Any], T]) -> T:
        """What `read` makes of a field of state.json. InputError if that can't be."""
        value = self.state[name]
        with explained(self.folder / STATE):
            return read(value)

    def stated_if_any(self, name: str, read: Callable[[Any], T]) -> T | None:
        """The same of a field that only some runs have; None where this one doesn't."""
        return self.stated(name, read) if name in self.state else None

    @property
    def kinds(self) -> list[tuple[str, str]]:
        """What the checkpoint holds, as (parameter, kind)."""
        return self.index.kinds

    def holds(self, parameter: str, kind: str) -> bool:
        """Whether the checkpoint holds this kind of the parameter."""
        return self.index.holds(parameter, kind)

    def require(self, kind: str) -> None:
        """Refuses a checkpoint without this kind of weights."""
        if not any(held == kind for _, held in self.kinds):
            raise InputError(
                f"{self.folder}: holds no moving average of the weights; leave checkpoint.ema out, or train with "
                "train.ema."
            )

    def read(self, parameter: str, kind: str, region: Region) -> torch.Tensor:
        """The region's elements of a parameter; 1-D, fp32, on the CPU. A `region.Source`.

        InputError if the checkpoint doesn't hold them all.
        """
        result = torch.empty(region.count, dtype=torch.float32)
        found = 0
        try:
            for run in self.index.find(parameter, kind, region):
                found += self._copy_run(region, result, run)
        except InputError as error:
            raise InputError(f"{self.folder}: {error}; {MEND}") from None
        if found != region.count:
            raise InputError(f"{self.folder}: holds {found:,} of {region.count:,} elements of {parameter} ({kind}).")
        return result

    def read_whole(self, parameter: str, kind: str) -> torch.Tensor:
        """All of a parameter, in its shape."""
        shape = self.shapes[parameter]
        return self.read(parameter, kind, Region.of_slice(shape, None)).view(shape)

    def _copy_run(self, region: Region, result: torch.Tensor, run: Pieces) -> int:
        """Copies what a run has of a region into `result`; the number of elements."""
        copied, into = 0, result.numpy()
        for number in range(run.count):
            start = run.start + number * run.size
            values = self._piece(run, number)
            if run.slice == region.slice:
                low, high = max(start, region.start), min(start + run.size, region.stop)
                into[low - region.start : high - region.start] = values[low - start : high - start]
                copied += high - low
            else:
                held = Region(region.shape, run.slice, start, start + run.size)
                copied += copy(region, result, held, _storage(values))
        return copied

    def _piece(self, run: Pieces, number: int) -> npt.NDArray[np.float32]:
        part = self._part(run.part + number * run.step)
        if run.offset + run.size > part.size:
            raise InputError(f"part {run.part + number * run.step} has no {run.offset + run.size:,} elements")
        return part[run.offset : run.offset + run.size]

    def _part(self, number: int) -> npt.NDArray[np.float32] | SealedTensor:
        """A stored tensor, mapped or decrypted when it is read. InputError if it isn't 1-D fp32."""
        from safetensors import SafetensorError

        if number not in self._parts:
            file, tensor = self.index.parts[number]
            try:
                if file not in self._files:
                    self._files[file] = TensorFile(self.folder / file)
                self._parts[number] = self._files[file].tensor(tensor)
            except (SafetensorError, OSError) as error:
                raise InputError(f"{file}: {str(error).splitlines()[0]}") from error
        return self._parts[number]

    def part_problems(self) -> Iterator[str]:
        """A line for each stored tensor that isn't as the index says. KeyProblem without the key of encrypted ones."""
        for number, needed in enumerate(self.index.part_sizes.tolist()):
            try:
                size = self._part(number).size if needed else 0
            except KeyProblem:
                raise  # of all files alike
            except InputError as error:
                yield str(error)
                continue
            if size < needed:
                file, tensor = self.index.parts[number]
                yield f"{file}: {tensor} has {size:,} elements of {needed:,}"

    def check_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Refuses a model whose parameters aren't those of the checkpoint."""
        for name in sorted(shapes.keys() | self.shapes.keys()):
            if shapes.get(name) != self.shapes.get(name):
                raise InputError(
                    f"{self.folder}: {name} is {self.shapes.get(name, 'not there')} in the checkpoint and "
                    f"{shapes.get(name, 'not there')} in the model; set model.* to what the run was started with."
                )


def _storage(values: npt.NDArray[np.float32]) -> Storage:
    """A piece's values, for `copy`."""

    def stored(start: int, stop: int) -> torch.Tensor:
        return torch.from_numpy(values[start:stop])

    return stored


def read_weights(folder: Path, kind: str = WEIGHT) -> Iterator[tuple[str, torch.Tensor]]:
    """Whole fp32 weights by name, one at a time, from a checkpoint of any shape; `kind` may be their average."""
    reader = CheckpointReader(folder)
    reader.require(kind)
    for name in reader.shapes:
        yield name, reader.read_whole(name, kind)

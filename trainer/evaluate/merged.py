"""The weights of a checkpoint, whole: of a run with adapters, the base's with these merged into them, in fp32."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint.fragment import WEIGHT
from trainer.checkpoint.reader import CheckpointReader
from trainer.config import Adapt, Model
from trainer.engine.base_model import FILE, Base, open_base, read_base, require_unchanged
from trainer.errors import InputError
from trainer.model.adapters import LORA_A, LORA_B, MAGNITUDE, merged
from trainer.model.build import parameter_shapes
from trainer.model.quantized import round_trip
from trainer.model.region import Region, Source


class WholeWeights:
    """Reads a checkpoint by the names of the model without adapters, as a CheckpointReader of a full run does."""

    def __init__(self, checkpoint: Path, model: Model, adapt: Adapt) -> None:
        self._reader = CheckpointReader(checkpoint)
        self._model = model
        self._adapt = adapt
        self._last: tuple[tuple[str, str], torch.Tensor] | None = None
        self.folder = checkpoint

    @property
    def state(self) -> dict[str, Any]:
        """The content of state.json."""
        return self._reader.state

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's shape."""
        return self._reader.shapes if self._adapt.name == "full" else parameter_shapes(self._model)

    @property
    def base_folder(self) -> str:
        """Where the base is that adapters are beside."""
        return self._pinned.folder

    @cached_property
    def _pinned(self) -> Base:
        run_dir = self.folder.resolve().parent.parent
        base = read_base(run_dir)
        if base is None:
            raise InputError(f"{run_dir / FILE}: missing, so that the adapters' base isn't known; restore that file.")
        require_unchanged(base, run_dir)
        return base

    @cached_property
    def _base(self) -> Source:
        return open_base(self._pinned, self._model)

    def require(self, kind: str) -> None:
        """Refuses a checkpoint without this kind of weights."""
        self._reader.require(kind)

    def check_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Refuses a model whose parameters aren't those of the checkpoint."""
        if self._adapt.name == "full":
            self._reader.check_shapes(shapes)

    def read(self, parameter: str, kind: str, region: Region) -> torch.Tensor:
        """The region's elements of a parameter; 1-D, fp32, on the CPU."""
        if self._adapt.name == "full" or self._reader.holds(parameter, kind):
            return self._reader.read(parameter, kind, region)
        prefix = parameter.removesuffix(".weight")
        if not self._reader.holds(f"{prefix}{LORA_B}", kind):
            return self._base(parameter, WEIGHT, region)
        if self._last is None or self._last[0] != (parameter, kind):
            whole = self._base(parameter, WEIGHT, Region.of_slice(self.shapes[parameter], None))
            if self._adapt.quantize != "none":
                whole = round_trip(whole.view(self.shapes[parameter]))
            names = (LORA_A, LORA_B, *((MAGNITUDE,) if self._adapt.dora else ()))
            parts = {name: self._reader.read_whole(f"{prefix}{name}", kind) for name in names}
            self._last = (parameter, kind), merged(whole.view(self.shapes[parameter]), parts, self._adapt)
        return region.cut(self._last[1])

    def weights(self, kind: str = WEIGHT) -> Iterator[tuple[str, torch.Tensor]]:
        """Whole fp32 weights by name, one at a time."""
        self.require(kind)
        for name, shape in self.shapes.items():
            yield name, self.read(name, kind, Region.of_slice(shape, None)).view(shape)

    def adapters(self, kind: str) -> Iterator[tuple[str, torch.Tensor]]:
        """What the checkpoint itself holds, whole, by name."""
        self.require(kind)
        for name in self._reader.shapes:
            yield name, self._reader.read_whole(name, kind)

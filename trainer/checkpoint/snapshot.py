"""What a rank writes of a checkpoint: copies of its fragments in host memory, and what they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from trainer.checkpoint.fragment import Fragment
from trainer.checkpoint.index import LONGS, WORDS, Columns, IndexNames
from trainer.model.partition import Slice


@dataclass(frozen=True)
class Snapshot:
    """Tensors in the order in which they are written, end to end, and rows of the index that say so."""

    tensors: list[torch.Tensor]
    names: IndexNames
    columns: Columns

    @property
    def elements(self) -> int:
        """Number of elements of all tensors."""
        return sum(tensor.numel() for tensor in self.tensors)


def take_snapshot(fragments: Iterable[Fragment], rank: int) -> Snapshot:
    """Copies the fragments of `rank`; the copies are finished when it returns."""
    tensors: list[torch.Tensor] = []
    parameters: dict[str, tuple[int, ...]] = {}
    kinds: dict[str, int] = {}
    slices: dict[Slice | None, int] = {}
    places: dict[str, int] = {}
    rows: list[tuple[int, ...]] = []
    offset = 0
    for fragment in fragments:
        region = fragment.region
        for kind, view in fragment.views.items():
            if region.count == 0:
                continue  # a share of a parameter with fewer elements than ranks
            tensors.append(_host_copy(view.detach()))
            parameters[fragment.parameter] = tuple(region.shape)
            parameter = places.setdefault(fragment.parameter, len(places))
            kind_, cut = kinds.setdefault(kind, len(kinds)), slices.setdefault(region.slice, len(slices))
            rows.append((parameter, kind_, cut, rank, 0, 1, region.start, region.count, offset))
            offset += region.count
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    table = np.array(rows, dtype=np.int64).reshape(-1, len(WORDS + LONGS)).T
    types = [np.int32] * len(WORDS) + [np.int64] * len(LONGS)
    columns: Columns = {
        name: column.astype(kind) for name, column, kind in zip(WORDS + LONGS, table, types, strict=True)
    }
    return Snapshot(tensors, IndexNames(parameters, tuple(kinds), tuple(slices), ()), columns)


def _host_copy(view: torch.Tensor) -> torch.Tensor:
    if view.dtype != torch.float32:
        raise TypeError(f"checkpoints hold fp32, not {view.dtype}")
    if view.device.type != "cuda":
        return view.clone(memory_format=torch.contiguous_format)  # .cpu() would alias
    copy = torch.empty(view.shape, dtype=view.dtype, pin_memory=True)
    return copy.copy_(view, non_blocking=True)

"""The training losses of a step's rows: what the step computes anyway, kept until it is logged."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from trainer.data.tokens.loader import Batch


@dataclass
class RowLosses:
    """Row losses of the step under way. Nothing is added up, and no device waited for, until it is logged."""

    _rows: list[tuple[np.ndarray, Tensor, Tensor]] = field(default_factory=list, init=False)

    def begin_step(self) -> None:
        """Forgets the step before."""
        self._rows.clear()

    def add(self, batch: Batch, losses: Tensor, units: Tensor) -> None:
        """This rank's part of a micro-batch: summed losses and units of its rows, (rows,)."""
        self._rows.append((batch.positions, losses.detach(), units))

    def by_position(self, first: int, count: int) -> Tensor:
        """(2, count) fp64 on the CPU: summed losses and units of this rank's rows, by position from `first`. Waits."""
        found = torch.zeros((2, count), dtype=torch.float64)
        if not self._rows:
            return found
        positions, losses, units = zip(*self._rows, strict=True)
        places = torch.from_numpy(np.concatenate(positions) - first)
        inside = (places >= 0) & (places < count)  # rows that only pad a step stand elsewhere
        values = torch.stack((torch.cat(losses).double(), torch.cat(units).double())).cpu()
        return found.index_add_(1, places[inside], values[:, inside])


def mean_by_position(sums: Tensor) -> list[float | None]:
    """Each row's loss by unit, from sums over all ranks, (2, count); None of a row without units."""
    return [loss / units if units > 0 else None for loss, units in zip(*sums.tolist(), strict=True)]

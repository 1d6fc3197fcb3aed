"""The training loss of a step by dataset of a mixture: from the row losses that the step has anyway."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from trainer.data.tokens.loader import Batch
from trainer.data.tokens.order import Order


@dataclass
class DatasetLosses:
    """Row losses of the step under way. `names` are the datasets of `order`, in its order.

    Nothing is added up, and no device waited for, until a step is logged.
    """

    names: list[str]
    order: Order
    _rows: list[tuple[np.ndarray, Tensor, Tensor]] = field(default_factory=list)

    def begin_step(self) -> None:
        """Forgets the step before."""
        self._rows.clear()

    def add(self, batch: Batch, losses: Tensor, units: Tensor) -> None:
        """This rank's part of a micro-batch: summed losses and units of its rows, (rows,)."""
        self._rows.append((batch.positions, losses.detach(), units))

    def sums(self) -> Tensor:
        """(2, datasets) fp64 on the CPU: summed losses and targets of this rank's rows, by dataset. Waits."""
        found = np.zeros((2, len(self.names)))
        for positions, *columns in self._rows:
            numbers = self.order.locate(positions).dataset
            for row, values in zip(found, columns, strict=True):
                row += np.bincount(numbers, values.double().cpu().numpy(), minlength=len(self.names))
        return torch.from_numpy(found)

    def metrics(self, sums: Tensor) -> dict[str, float]:
        """Loss and targets of each dataset that the step had rows of, from sums over all ranks."""
        metrics: dict[str, float] = {}
        for name, loss, targets in zip(self.names, *sums.tolist(), strict=True):
            if targets > 0:
                metrics |= {f"train/{name}/loss": loss / targets, f"train/{name}/tokens": targets}
        return metrics

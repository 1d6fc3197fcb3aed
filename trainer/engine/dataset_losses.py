"""The training loss of a step by dataset of a mixture: from the row losses that the step has anyway."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainer.data.tokens.order import Order
from trainer.engine.row_losses import RowLosses


@dataclass
class DatasetLosses(RowLosses):
    """Row losses of the step under way. `names` are the datasets of `order`, in its order."""

    names: list[str]
    order: Order

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

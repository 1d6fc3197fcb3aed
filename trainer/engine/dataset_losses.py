"""The training loss of a step by dataset of a mixture: from the row losses that the step has anyway."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainer.data.tokens.order import Order, Rows, consumed
from trainer.engine.row_losses import RowLosses


@dataclass
class DatasetLosses(RowLosses):
    """Row losses of the step under way. `rows` are the datasets of `order`, in its order."""

    rows: list[Rows]
    order: Order
    sequence_length: int

    def sums(self) -> Tensor:
        """(2, datasets) fp64 on the CPU: summed losses and targets of this rank's rows, by dataset. Waits."""
        found = np.zeros((2, len(self.rows)))
        for positions, *columns in self._rows:
            numbers = self.order.locate(positions).dataset
            for row, values in zip(found, columns, strict=True):
                row += np.bincount(numbers, values.double().cpu().numpy(), minlength=len(self.rows))
        return torch.from_numpy(found)

    def metrics(self, sums: Tensor, position: int) -> dict[str, float]:
        """Loss and targets of each dataset that the step had rows of, from sums over all ranks.

        And how much of each was taken before `position`: for the first time, and again.
        """
        metrics: dict[str, float] = {}
        taken = consumed(self.order.segments, position)
        for each, loss, targets in zip(self.rows, *sums.tolist(), strict=True):
            name = each.name
            if targets > 0:
                metrics |= {f"train/{name}/loss": loss / targets, f"train/{name}/tokens": targets}
            rows = taken.get(each.fingerprint, 0)
            unique = min(rows, each.total)
            metrics[f"train/{name}/unique_tokens"] = unique * self.sequence_length
            metrics[f"train/{name}/repeated_tokens"] = (rows - unique) * self.sequence_length
        return metrics

"""A region of a parameter and what a rank holds of it, as views by kind: the unit of checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from trainer.config import Checkpoint
from trainer.model.region import Region

# Kinds of views; moments have the names that torch gives them
WEIGHT = "fp32"
EMA = "ema"  # the moving average of the weights (trainer/engine/weight_average.py)


@dataclass(frozen=True)
class Fragment:
    """A region of a parameter; `views` by kind are 1-D and as long as it."""

    parameter: str
    region: Region
    views: dict[str, torch.Tensor]

    def share(self, index: int, count: int) -> Fragment:
        """The `index`-th of `count` even parts."""
        low, high = self.region.count * index // count, self.region.count * (index + 1) // count
        region = replace(self.region, start=self.region.start + low, stop=self.region.start + high)
        return Fragment(self.parameter, region, {kind: view[low:high] for kind, view in self.views.items()})


def kind_of_weights(settings: Checkpoint) -> str:
    """The kind of weights that a verb is to read: the last ones, or their moving average."""
    return EMA if settings.ema else WEIGHT

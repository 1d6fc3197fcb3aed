"""What an objective makes of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

LOSS, SHARE = "loss", "share"


def by_part(means: Mapping[str, float]) -> dict[str, float]:
    """Measures in which PART/loss, a mean over all units, has become one over the part of them that PART/share is.

    Of a part without units only the share stays.
    """
    found = dict(means)
    for name, share in means.items():
        part, _, last = name.rpartition("/")
        loss = f"{part}/{LOSS}"
        if last == SHARE and loss in means:
            found |= {loss: means[loss] / share} if share > 0 else {}
            if share <= 0:
                del found[loss]
    return found


@dataclass(frozen=True)
class Losses:
    """Of each row: the sum of its losses, (rows,) fp32; backward is called on them.

    `measures` are other sums by name, (rows,), without gradient. Over all rows of a global batch or a validation set
    the loss and the measures are divided by the units (`Objective.units`), and logged by their names. `predictions`,
    (rows, …) as the batch's targets, are numbers of labels, of which evaluations make their figures.
    """

    rows: Tensor
    measures: Mapping[str, Tensor] = field(default_factory=dict)
    predictions: Tensor | None = None

"""What a run learns: the seam between rows of tokens and a loss. One more objective is a file here and a row below."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from trainer.config import Data, ObjectiveSettings
from trainer.data.tokens.loader import Batch
from trainer.data.tokens.token_rows import GatheredRows
from trainer.objective import causal

# A model, or DeepSpeed's engine around one
Model = Callable[..., Any]


class Objective(Protocol):
    """From rows to a batch, and from a model and a batch to losses.

    The loop divides the sum of losses by the targets of the global batch, over all ranks and micro-steps. A target that
    is `IGNORED` counts for nothing.
    """

    def to_batch(self, rows: GatheredRows, *, positions: np.ndarray) -> Batch:
        """Rows, which stand at `positions` (n,) of the run, as a batch: tokens (n, L + 1), or TokenRows of n.

        What becomes of a row may depend on its tokens and position alone, since the batch is cut into micro-batches.
        """

    def losses(self, model: Model, batch: Batch) -> Tensor:
        """The sum of the losses of each row's targets; (rows,) fp32. The one place that calls a model to train it."""

    def targets_per_row(self) -> int | None:
        """How many targets every row has, or None where rows differ: then they are counted."""


BUILDERS: dict[str, Callable[[Data, int], Objective]] = {
    "causal": causal.build,
}


def build_objective(settings: ObjectiveSettings, data: Data, *, end_of_text: int) -> Objective:
    """The objective of a run, over data whose documents end in the token `end_of_text`."""
    return BUILDERS[settings.name](data, end_of_text)

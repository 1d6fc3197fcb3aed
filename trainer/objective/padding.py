"""Rows of one document each, padded to one length: what of them is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from trainer.data.tokens.loader import IGNORED, Batch

# A model, or DeepSpeed's engine around one
Model = Callable[..., Any]

MULTIPLE = 8  # of widths


def cropped(batch: Batch) -> Batch:
    """The batch without the columns that are padding in all its rows, where looking doesn't keep a device waiting.

    Rows are padded on the right, with tokens of another document than 0.
    """
    if batch.document_ids is None or batch.inputs.is_cuda:
        return batch
    width = _width((batch.document_ids == 0).any(dim=0))
    targets = batch.targets
    if targets.shape == batch.inputs.shape:
        targets = targets[:, :width]
    return replace(batch, inputs=batch.inputs[:, :width], targets=targets, document_ids=batch.document_ids[:, :width])


def cropped_targets(targets: Tensor) -> Tensor:
    """Targets without the columns in which none counts, likewise."""
    return targets if targets.is_cuda else targets[:, : _width((targets != IGNORED).any(dim=0))]


def _width(used: Tensor) -> int:
    """Columns up to the last that is used, in multiples, and some at least."""
    last = int(used.nonzero()[-1]) + 1 if bool(used.any()) else 1
    return min(-(-last // MULTIPLE) * MULTIPLE, len(used))

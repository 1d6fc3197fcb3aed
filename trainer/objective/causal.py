"""objective=causal: each token of a row from those before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.config import Data
from trainer.data.tokens.loader import Batch


@dataclass(frozen=True)
class Causal:
    """Rows of `sequence_length` + 1 tokens; `end_of_text` where documents of a row don't see each other."""

    sequence_length: int
    end_of_text: int | None

    def to_batch(self, rows: Sequence[np.ndarray], *, position: int) -> Batch:
        """Rows as a micro-batch."""
        return to_batch(rows, position=position, end_of_text=self.end_of_text)

    def losses(self, model: Callable[..., Any], batch: Batch) -> Tensor:
        """The sum of each row's losses; (rows,) fp32."""
        losses: Tensor = model(batch.inputs, batch.targets, batch.document_ids)
        return losses

    def targets_per_row(self) -> int | None:
        """Every token but a row's first is a target."""
        return self.sequence_length


def build(data: Data, end_of_text: int) -> Causal:
    """The objective over data whose documents end in the token `end_of_text`."""
    return Causal(data.sequence_length, end_of_text if data.mask_documents else None)


def to_batch(rows: Sequence[np.ndarray], *, position: int, end_of_text: int | None) -> Batch:
    """Rows of L + 1 tokens → inputs and targets that overlap; `end_of_text` asks for document ids."""
    tokens = torch.from_numpy(np.stack(rows).astype(np.int64))  # (rows, time + 1)
    inputs, targets = tokens[:, :-1].clone(), tokens[:, 1:].clone()  # of a single row, views would share memory
    return Batch(inputs, targets, None if end_of_text is None else document_ids(inputs, end_of_text), position)


def document_ids(inputs: torch.Tensor, end_of_text: int) -> torch.Tensor:
    """Number of the document that each input token is in, within its row, from 0; (rows, time) int64.

    The end-of-text token belongs to the document that it ends.
    """
    ends = (inputs == end_of_text).long()
    return ends.cumsum(dim=1) - ends

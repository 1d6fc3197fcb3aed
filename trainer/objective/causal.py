"""objective=causal: each token of a row from those before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.config import Data, ObjectiveSettings
from trainer.config.modalities import TEXT
from trainer.data.tokens.loader import IGNORED, Batch
from trainer.data.tokens.manifest import Manifest
from trainer.data.tokens.modalities import CodeRange
from trainer.data.tokens.token_rows import GatheredRows, TokenRows
from trainer.model.build import LanguageModel
from trainer.model.hugging_face.suitability import require_causal, require_separation
from trainer.model.loss import hearing
from trainer.objective.losses import LOSS, SHARE, Losses


@dataclass(frozen=True)
class Causal:
    """Rows of `sequence_length` + 1 tokens; `end_of_text` where documents of a row don't see each other.

    `ranges` are modalities whose losses are told apart, and text's, which is all else.
    """

    sequence_length: int
    end_of_text: int | None
    separates_documents: bool = False
    ranges: Mapping[str, CodeRange] = field(default_factory=dict)
    unit: str = "tokens"
    scale: str = "nats per token"

    def check_model(self, model: LanguageModel) -> None:
        """Refuses a model that sees later tokens, or other documents of a row where it mustn't."""
        require_causal(model, self.sequence_length)
        if self.separates_documents:
            require_separation(model, self.sequence_length)

    def to_batch(self, rows: GatheredRows, *, positions: np.ndarray) -> Batch:
        """Rows as a batch: tokens (n, L + 1), or rows of which not every target counts."""
        return to_batch(rows, positions=positions, end_of_text=self.end_of_text)

    def losses(self, model: Callable[..., Any], batch: Batch) -> Losses:
        """The sum of each row's losses; (rows,) fp32."""
        if not self.ranges:
            return Losses(model(batch.inputs, batch.targets, batch.document_ids))
        heard: list[Tensor] = []
        with hearing(getattr(model, "module", model), heard):
            rows = model(batch.inputs, batch.targets, batch.document_ids)
        return Losses(rows, measure_modalities(torch.cat(heard), batch.targets, self.ranges))

    def units(self, batch: Batch) -> Tensor:
        """The targets of each row."""
        return count_targets(batch)

    def units_per_row(self) -> int | None:
        """Every token but a row's first is a target, where the data don't say otherwise."""
        return self.sequence_length


def build(settings: ObjectiveSettings, data: Data, manifest: Manifest, seed: int) -> Causal:
    """The objective over data whose documents end in the end-of-text token of their tokenizer."""
    marks = manifest.end_of_text if data.mask_documents else None
    return Causal(data.sequence_length, marks, data.separates_documents, manifest.modalities)


def measure_modalities(losses: Tensor, targets: Tensor, ranges: Mapping[str, CodeRange]) -> dict[str, Tensor]:
    """Of each row and modality the losses of its targets and their number, (rows,); `by_part` makes means of them.

    losses: (rows · time,) of targets, (rows, time). Begin and end tokens are text's.
    """
    losses, text = losses.view(targets.shape), targets != IGNORED
    measures: dict[str, Tensor] = {}
    for name, codes in ranges.items():
        inside = (targets >= codes.first) & (targets < codes.stop)
        text = text & ~inside
        measures |= _measure(name, losses, inside)
    return measures | _measure(TEXT, losses, text)


def _measure(name: str, losses: Tensor, inside: Tensor) -> dict[str, Tensor]:
    return {
        f"modality/{name}/{LOSS}": torch.where(inside, losses, 0).sum(dim=1),
        f"modality/{name}/{SHARE}": inside.sum(dim=1).float(),
    }


def count_targets(batch: Batch) -> Tensor:
    """How many targets of each row count; (rows,) int64."""
    return (batch.targets != IGNORED).sum(dim=1)


def to_batch(rows: GatheredRows, *, positions: np.ndarray, end_of_text: int | None) -> Batch:
    """Rows (n, L + 1) → inputs and targets, which overlap in memory; `end_of_text` asks for document ids.

    Packed rows have ids of their own. Targets that don't count are IGNORED.
    """
    if isinstance(rows, TokenRows):
        return _counted_batch(rows, positions=positions, end_of_text=end_of_text)
    tokens = torch.from_numpy(rows.astype(np.int64))
    ids = None if end_of_text is None else document_ids(rows[:, :-1], end_of_text)
    return Batch(tokens[:, :-1], tokens[:, 1:], ids, positions)


def _counted_batch(rows: TokenRows, *, positions: np.ndarray, end_of_text: int | None) -> Batch:
    targets = torch.from_numpy(np.where(rows.counted, rows.targets.astype(np.int64), IGNORED))
    ids = None if rows.document_ids is None else torch.from_numpy(rows.document_ids)
    if ids is None and end_of_text is not None:
        ids = document_ids(rows.inputs, end_of_text)
    return Batch(torch.from_numpy(rows.inputs.astype(np.int64)), targets, ids, positions)


def document_ids(inputs: np.ndarray, end_of_text: int) -> torch.Tensor:
    """Number of the document that each input token is in, within its row, from 0; (rows, time) int64.

    The end-of-text token belongs to the document that it ends. (torch adds up at twice numpy's speed.)
    """
    ids = np.empty(inputs.shape, np.int64)
    ids[:, 0] = 0
    ids[:, 1:] = inputs[:, :-1] == end_of_text
    return torch.from_numpy(ids).cumsum_(1)

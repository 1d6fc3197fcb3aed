"""objective=reward: a number for a prompt and its answer, higher for the chosen one of a pair.

Bradley–Terry: -log sigmoid(reward of chosen - reward of rejected) (Ouyang et al., 2022, equation 1 for two answers).
The head is that of a Hugging Face classifier with one label, which reads the last token before the end of text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.config import Data, ObjectiveSettings
from trainer.data.tokens.loader import Batch
from trainer.data.tokens.manifest import Manifest
from trainer.data.tokens.token_rows import GatheredRows, TokenRows
from trainer.errors import InputError
from trainer.model.build import LanguageModel
from trainer.objective import pairs
from trainer.objective.causal import count_targets
from trainer.objective.losses import Losses

MEMBERS = (pairs.SIDES,)
LABELS = ("reward",)
TEXTS, LENGTHS = "texts", "lengths"  # what batches hold more


@dataclass(frozen=True)
class Reward:
    """Rows of one pair each."""

    unit: str = "pairs"
    scale: str = "nats per pair"

    def check_model(self, model: LanguageModel) -> None:
        """The head was made for one number."""

    def to_batch(self, rows: GatheredRows, *, positions: np.ndarray) -> Batch:
        """Rows of a pair as a batch; targets, (rows, 1), say that there is one.

        It holds more: `texts` (rows, 2, time), both sides without their ends, and their `lengths` (rows, 2).
        """
        assert isinstance(rows, TokenRows)
        assert rows.document_ids is not None
        places = (rows.document_ids == 0).sum(axis=1)
        middles = rows.by_document[pairs.SIDES][:, 0, 0].astype(np.int64)
        if (middles < 2).any() or (middles >= places).any():
            raise InputError(
                "a pair of answers, of which one would have no token: the shards are damaged; prepare again."
            )
        starts = np.stack([np.zeros_like(middles), middles], axis=1)
        lengths = np.stack([middles - 1, places - middles], axis=1)
        time = np.arange(int(lengths.max()))
        taken = np.minimum(starts[..., None] + time, rows.inputs.shape[1] - 1)
        texts = np.take_along_axis(rows.inputs.astype(np.int64)[:, None, :], taken, axis=2)
        inputs, ids = torch.from_numpy(rows.inputs.astype(np.int64)), torch.from_numpy(rows.document_ids)
        batch = Batch(inputs, torch.zeros(len(places), 1, dtype=torch.int64), ids, positions)
        return replace(batch, more={TEXTS: torch.from_numpy(texts), LENGTHS: torch.from_numpy(lengths)})

    def losses(self, model: Callable[..., Any], batch: Batch) -> Losses:
        """The loss of each row's pair, and the rewards by TRL's names."""
        texts, lengths = batch.more[TEXTS].flatten(0, 1), batch.more[LENGTHS].flatten()
        if not texts.is_cuda:
            texts = texts[:, : int(lengths.max())]
        padding = torch.arange(texts.shape[1], device=texts.device) >= lengths[:, None]
        rewards = model(texts, padding.long()).view(-1, 1, 2).double()
        losses = pairs.smoothed(rewards[..., 0] - rewards[..., 1], 0.0)
        return pairs.sum_pairs(losses, pairs.reward_measures(rewards), count_targets(batch)[:, None] > 0)

    def units(self, batch: Batch) -> Tensor:
        """A pair a row."""
        return count_targets(batch)

    def units_per_row(self) -> int | None:
        """Counted, with what is in the rows."""
        return None


def build(settings: ObjectiveSettings, data: Data, manifest: Manifest, seed: int) -> Reward:
    """The objective over pairs."""
    return Reward()

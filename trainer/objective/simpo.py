"""objective=simpo: the chosen answer rather than the rejected, by their mean log-probability per token; no reference.

SimPO (Meng et al., 2024, equation 6): -log sigmoid(beta · (mean log p of chosen - of rejected) - gamma).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from trainer.config import Data, ObjectiveSettings
from trainer.data.tokens.loader import Batch
from trainer.data.tokens.manifest import Manifest
from trainer.data.tokens.token_rows import GatheredRows
from trainer.model.build import LanguageModel
from trainer.objective import causal, pairs
from trainer.objective.losses import Losses

MEMBERS = (pairs.SIDES,)


@dataclass(frozen=True)
class SimPO:
    """`settings` are the run's; `plain` has what holds of any model that predicts tokens."""

    settings: ObjectiveSettings
    plain: causal.Causal
    unit: str = "pairs"
    scale: str = "nats per pair"

    def check_model(self, model: LanguageModel) -> None:
        """Refuses a model that sees later tokens, or other documents of a row."""
        self.plain.check_model(model)

    def to_batch(self, rows: GatheredRows, *, positions: np.ndarray) -> Batch:
        """Rows of pairs."""
        return pairs.batch_of_pairs(rows, positions=positions)

    def losses(self, model: Callable[..., Any], batch: Batch) -> Losses:
        """The losses of each row's pairs, and their rewards by TRL's names."""
        lengths = pairs.count_sides(batch)
        found = pairs.log_probabilities(model, batch)
        rewards = self.settings.beta * found / lengths.clamp(min=1)
        logits = rewards[..., 0] - rewards[..., 1] - self.settings.gamma
        losses = pairs.smoothed(logits, self.settings.label_smoothing)
        measures = pairs.reward_measures(rewards) | pairs.log_probability_measures(found)
        return pairs.sum_pairs(losses, measures, pairs.is_pair(lengths))

    def units(self, batch: Batch) -> Tensor:
        """The pairs of each row."""
        return pairs.count_pairs(batch)

    def units_per_row(self) -> int | None:
        """Rows differ."""
        return None


def build(settings: ObjectiveSettings, data: Data, manifest: Manifest, seed: int) -> SimPO:
    """The objective over pairs."""
    return SimPO(settings, causal.build(settings, data, manifest, seed))

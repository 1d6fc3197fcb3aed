"""objective=dpo: the chosen answer rather than the rejected, measured against a reference that is the start of the run.

Direct Preference Optimization (Rafailov et al., 2023, equation 7), with label smoothing (Mitchell, 2023: conservative
DPO), per token (Lambert et al., 2024: length-normalised DPO), or IPO (Azar et al., 2023, equation 17, of means per
token, as TRL has it). The reference's log-probabilities are in the shards. At the start the loss is ln 2.
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
from trainer.errors import ConfigError
from trainer.model.build import LanguageModel
from trainer.objective import causal, pairs
from trainer.objective.losses import Losses

MEMBERS = (pairs.SIDES, pairs.REFERENCE)


@dataclass(frozen=True)
class Dpo:
    """`settings` are the run's; `plain` has what holds of any model that predicts tokens."""

    settings: ObjectiveSettings
    plain: causal.Causal
    unit: str = "pairs"

    @property
    def scale(self) -> str:
        """What a loss is in: of IPO it is a square."""
        return "squared nats per pair" if self.settings.loss == "ipo" else "nats per pair"

    def check_model(self, model: LanguageModel) -> None:
        """Refuses a model whose start wouldn't be the reference: dropout, or documents of a row that see each other."""
        self.plain.check_model(model)
        if model.has_dropout:
            raise ConfigError(
                "objective=dpo: with dropout the model isn't its reference even at the start; set what drops to 0 "
                "(model.dropout, or of a Hugging Face model model.overrides)."
            )

    def to_batch(self, rows: GatheredRows, *, positions: np.ndarray) -> Batch:
        """Rows of pairs, with the reference's log-probabilities."""
        return pairs.batch_of_pairs(rows, positions=positions)

    def losses(self, model: Callable[..., Any], batch: Batch) -> Losses:
        """The losses of each row's pairs, and their implicit rewards by TRL's names."""
        policy, lengths = pairs.log_probabilities(model, batch), pairs.count_sides(batch)
        counts = pairs.is_pair(lengths)
        ratios = policy - batch.more[pairs.REFERENCE]  # of log-probabilities: (rows, pairs, 2)
        losses = dpo_loss(self.settings, ratios, lengths.clamp(min=1))
        measures = pairs.reward_measures(self.settings.beta * ratios) | pairs.log_probability_measures(policy)
        return pairs.sum_pairs(losses, measures, counts)

    def units(self, batch: Batch) -> Tensor:
        """The pairs of each row."""
        return pairs.count_pairs(batch)

    def units_per_row(self) -> int | None:
        """Rows differ."""
        return None


def build(settings: ObjectiveSettings, data: Data, manifest: Manifest, seed: int) -> Dpo:
    """The objective over pairs."""
    return Dpo(settings, causal.build(settings, data, manifest, seed))


def dpo_loss(settings: ObjectiveSettings, ratios: Tensor, lengths: Tensor) -> Tensor:
    """Losses of pairs, (…,), from log-ratios of policy and reference and targets of both sides, (…, 2)."""
    if settings.length_normalised or settings.loss == "ipo":
        ratios = ratios / lengths
    margin = ratios[..., 0] - ratios[..., 1]
    if settings.loss == "ipo":
        return (margin - 1 / (2 * settings.beta)).square()
    return pairs.smoothed(settings.beta * margin, settings.label_smoothing)

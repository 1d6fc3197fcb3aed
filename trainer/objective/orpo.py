"""objective=orpo: the chosen answer is learnt, and its odds against the rejected one's; no reference.

ORPO (Hong et al., 2024, equations 6 and 7): -mean log p of chosen - beta · log sigmoid(log odds of chosen - of
rejected), where an answer's odds are p / (1 - p) of p = exp(mean log-probability per token). beta is TRL's name for the
paper's lambda. (TRL's trainer learns the prompt's tokens, too; here as in the paper only the answer's.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.config import Data, ObjectiveSettings
from trainer.data.tokens.loader import Batch
from trainer.data.tokens.manifest import Manifest
from trainer.objective import causal, pairs
from trainer.objective.losses import Losses
from trainer.objective.simpo import SimPO

NEVER_CERTAIN = -1e-7  # the largest mean log-probability: at 0 the odds are infinite, and so is their gradient


@dataclass(frozen=True)
class Orpo(SimPO):
    """Rows of pairs as SimPO has them, under another loss."""

    def losses(self, model: Callable[..., Any], batch: Batch) -> Losses:
        """The losses of each row's pairs, with their parts and rewards by TRL's names."""
        lengths = pairs.count_sides(batch)
        found = pairs.log_probabilities(model, batch)
        means = found / lengths.clamp(min=1)
        log_odds = odds(means[..., 0]) - odds(means[..., 1])
        ratio = F.logsigmoid(log_odds)
        losses = -means[..., 0] - self.settings.beta * ratio
        measures = pairs.reward_measures(self.settings.beta * means) | pairs.log_probability_measures(found)
        measures |= {"nll_loss": -means[..., 0], "log_odds_ratio": ratio, "log_odds_chosen": log_odds}
        return pairs.sum_pairs(losses, measures, pairs.is_pair(lengths))


def odds(means: Tensor) -> Tensor:
    """log(p / (1 - p)) from log p."""
    means = means.clamp(max=NEVER_CERTAIN)
    return means - torch.log(-torch.expm1(means))


def build(settings: ObjectiveSettings, data: Data, manifest: Manifest, seed: int) -> Orpo:
    """The objective over pairs."""
    return Orpo(settings, causal.build(settings, data, manifest, seed))

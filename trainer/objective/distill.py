"""objective=distill: what a teacher says of each token, mixed with what the text says.

(1 - alpha) · cross-entropy + alpha · T² · KL(teacher_T ‖ student_T), probabilities at the temperature T (Hinton et al.,
2015; T² keeps the gradient's size). The teacher is asked while training, or its k likeliest tokens are in the shards.
These give the divergence of k + 1 classes, the last being all other tokens together. It is below the full one by
p_rest · KL(teacher's others ‖ student's others) ≤ p_rest · log(min(1, p_k / p_rest) · q_rest / q_min), where p_rest and
q_rest are the others' masses by teacher and student, p_k the least cached and q_min the student's least probability.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.config import Data, ObjectiveSettings
from trainer.data.tokens.loader import IGNORED, Batch
from trainer.data.tokens.manifest import Manifest
from trainer.data.tokens.token_rows import GatheredRows, TokenRows
from trainer.model.build import LanguageModel
from trainer.objective import causal
from trainer.objective.losses import Losses

TEACHER, TEACHER_IDS = "teacher", "teacher_ids"  # members of blocks (block_members.KINDS), and what batches hold more

# Divergences of tokens, (n,), from the student's logits (n, vocab_size) and which of the batch's tokens they are
Divergence = Callable[[Tensor, slice], Tensor]


@dataclass(frozen=True)
class Distill:
    """`settings` are the run's, `plain` is what is learnt without a teacher; `vocab_size` is the data's.

    `teacher` is a model that is asked; without one, the shards say what it would.
    """

    settings: ObjectiveSettings
    plain: causal.Causal
    vocab_size: int
    teacher: LanguageModel | None = None
    unit: str = "tokens"
    scale: str = "nats per token"

    def taught_by(self, teacher: LanguageModel | None) -> Distill:
        """The same with a teacher that is asked."""
        return replace(self, teacher=teacher)

    def check_model(self, model: LanguageModel) -> None:
        """As without a teacher."""
        self.plain.check_model(model)

    def to_batch(self, rows: GatheredRows, *, positions: np.ndarray) -> Batch:
        """Rows as without a teacher, and with what the shards have of one."""
        batch = self.plain.to_batch(rows, positions=positions)
        if not isinstance(rows, TokenRows) or TEACHER not in rows.by_token:
            return batch
        ids = torch.from_numpy(rows.by_token[TEACHER_IDS].astype(np.int64))
        return replace(batch, more={TEACHER: torch.from_numpy(rows.by_token[TEACHER]), TEACHER_IDS: ids})

    def losses(self, model: Callable[..., Any], batch: Batch) -> Losses:
        """The mixed losses of each row while training; else, and with alpha=0, those of the text alone."""
        alpha, square = self.settings.alpha, self.settings.temperature**2
        if alpha == 0 or not model.training:  # type: ignore[attr-defined]
            return self.plain.losses(model, batch)
        targets = batch.targets.flatten()
        divergence = self._from_shards(batch) if self.teacher is None else self._from_teacher(self.teacher, batch)

        def both(logits: Tensor, place: slice) -> Tensor:
            hard = F.cross_entropy(logits, targets[place], ignore_index=IGNORED, reduction="none")
            soft = torch.where(targets[place] != IGNORED, divergence(logits[:, : self.vocab_size], place), 0.0)
            return torch.stack((hard, soft), dim=1)

        hard, soft = model(batch.inputs, document_ids=batch.document_ids, from_logits=both).sum(dim=1).unbind(dim=1)
        measures = {"distill/hard": hard.detach(), "distill/divergence": soft.detach()}
        return Losses((1 - alpha) * hard + alpha * square * soft, measures)

    def units(self, batch: Batch) -> Tensor:
        """The targets of each row."""
        return self.plain.units(batch)

    def units_per_row(self) -> int | None:
        """As without a teacher."""
        return self.plain.units_per_row()

    def _from_shards(self, batch: Batch) -> Divergence:
        stored, ids = batch.more[TEACHER].flatten(0, 1), batch.more[TEACHER_IDS].flatten(0, 1)
        temperature = self.settings.temperature
        return lambda logits, place: cached_divergence(logits / temperature, stored[place], ids[place])

    def _from_teacher(self, teacher: LanguageModel, batch: Batch) -> Divergence:
        with torch.no_grad():
            told = teacher(batch.inputs, None, batch.document_ids).flatten(0, 1)[:, : self.vocab_size]
        temperature = self.settings.temperature
        return lambda logits, place: full_divergence(logits / temperature, told[place] / temperature)


def full_divergence(logits: Tensor, told: Tensor) -> Tensor:
    """KL(teacher ‖ student) of each token, (n,), in nats, from the logits of both, (n, vocab_size)."""
    student, teacher = logits.log_softmax(dim=1), told.log_softmax(dim=1)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)


def cached_divergence(logits: Tensor, stored: Tensor, ids: Tensor) -> Tensor:
    """KL of k + 1 classes: the teacher's k likeliest tokens, and all others. (n,), in nats.

    logits: (n, vocab_size) of the student; stored: (n, k + 1), log-probabilities of the teacher and the others' mass;
    ids: (n, k), which tokens those are.
    """
    known, rest = stored[:, :-1], stored[:, -1]
    total = logits.logsumexp(dim=1)
    student = logits.gather(1, ids) - total[:, None]
    others = logits.scatter(1, ids, -torch.inf).logsumexp(dim=1) - total
    return (known.exp() * (known - student)).sum(dim=1) + torch.xlogy(rest, rest) - rest * others


def build(settings: ObjectiveSettings, data: Data, manifest: Manifest, seed: int) -> Distill:
    """The objective; a teacher that is asked comes by `taught_by`."""
    return Distill(settings, causal.build(settings, data, manifest, seed), manifest.vocab_size)


def members_of_taught(settings: ObjectiveSettings) -> tuple[str, ...]:
    """What it reads of blocks: nothing where a teacher is asked, or none counts."""
    return () if settings.teacher is not None or settings.alpha == 0 else (TEACHER, TEACHER_IDS)

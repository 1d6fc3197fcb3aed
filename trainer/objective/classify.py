"""objective=classify: the label of a text; objective=tag: that of each word, at its first token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.config import Data, ObjectiveSettings
from trainer.data.tokens.block_members import LABEL, TAGS
from trainer.data.tokens.loader import IGNORED, Batch
from trainer.data.tokens.manifest import Manifest
from trainer.data.tokens.token_rows import GatheredRows, TokenRows
from trainer.errors import ConfigError, InputError
from trainer.model.build import LanguageModel
from trainer.objective.causal import count_targets
from trainer.objective.losses import Losses
from trainer.objective.padding import Model, cropped


@dataclass(frozen=True)
class Classify:
    """Rows of one text each. `labels` are all there are; `weights`, one for each, multiply the losses.

    With `by_token` each word has a label, else each text. The loss is the weighted sum over examples, divided by their
    number: weights that a label's share divides ("balanced") leave its size as it was.
    """

    labels: tuple[str, ...]
    weights: tuple[float, ...]
    by_token: bool
    unit: str

    @property
    def scale(self) -> str:
        """What a loss is in."""
        return "nats per word" if self.by_token else "nats per text"

    @property
    def label_names(self) -> tuple[str, ...]:
        """What the numbers among predictions stand for."""
        return self.labels

    def check_model(self, model: LanguageModel) -> None:
        """The head was made for the labels."""

    def to_batch(self, rows: GatheredRows, *, positions: np.ndarray) -> Batch:
        """Rows as a batch; targets are labels: (rows, time) of tokens, or (rows, 1) of texts."""
        assert isinstance(rows, TokenRows)
        assert rows.document_ids is not None
        stored = rows.by_token[TAGS][..., 0] if self.by_token else rows.by_document[LABEL][:, :1, 0]
        targets = stored.astype(np.int64) - 1  # 0 is none
        if targets.size and targets.max() >= len(self.labels):
            raise InputError(
                f"a label's number is {targets.max()}, of {len(self.labels)} labels: the shards were damaged; prepare "
                "them again."
            )
        targets[targets < 0] = IGNORED
        if self.by_token:
            targets[rows.document_ids != 0] = IGNORED
        inputs = torch.from_numpy(rows.inputs.astype(np.int64))
        return Batch(inputs, torch.from_numpy(targets), torch.from_numpy(rows.document_ids), positions)

    def losses(self, model: Model, batch: Batch) -> Losses:
        """Each row's weighted losses, how many labels are right, and what is predicted; (rows, …)."""
        batch = cropped(batch)
        logits = model(batch.inputs, batch.document_ids)
        logits = logits if self.by_token else logits[:, None]
        weight = torch.tensor(self.weights, device=logits.device) if any(w != 1 for w in self.weights) else None
        losses = F.cross_entropy(
            logits.transpose(1, 2), batch.targets, weight=weight, ignore_index=IGNORED, reduction="none"
        )
        predictions = logits.detach().argmax(dim=-1)
        right = (predictions == batch.targets).sum(dim=1)
        return Losses(losses.sum(dim=1), {"accuracy": right}, predictions)

    def units(self, batch: Batch) -> Tensor:
        """The labels of each row."""
        return count_targets(batch)

    def units_per_row(self) -> int | None:
        """Counted: a set may hold texts without a label of the list."""
        return None


def build_classify(settings: ObjectiveSettings, data: Data, manifest: Manifest, seed: int) -> Classify:
    """The objective over labelled texts."""
    return _build(settings, data, manifest, by_token=False, unit="texts")


def build_tag(settings: ObjectiveSettings, data: Data, manifest: Manifest, seed: int) -> Classify:
    """The objective over tagged words."""
    return _build(settings, data, manifest, by_token=True, unit="words")


def _build(settings: ObjectiveSettings, data: Data, manifest: Manifest, *, by_token: bool, unit: str) -> Classify:
    labels = tuple(settings.labels) or manifest.labels
    if data.packing != "single":
        raise ConfigError(
            f"data.packing={data.packing} with objective={settings.name}: a text is judged alone; use "
            "data.packing=single, one to a row."
        )
    return Classify(labels, class_weights_of(settings, labels), by_token, unit)


def check_labels(labels: Sequence[str], manifest: Manifest) -> None:
    """Refuses a set whose labels have other numbers than a run's: its figures would be of other labels."""
    if labels and tuple(labels) != manifest.labels:
        raise InputError(
            f"{manifest.folder}: its labels are {', '.join(manifest.labels)[:120]}, the model's "
            f"{', '.join(labels)[:120]}: prepare it with data.labels=[{','.join(labels)[:120]}]."
        )


def class_weights_of(settings: ObjectiveSettings, labels: Sequence[str]) -> tuple[float, ...]:
    """The weight of each label, 1 where none is given. ConfigError for one that isn't a label."""
    for name, weight in settings.class_weights.items():
        if name not in labels:
            raise ConfigError(
                f"objective.class_weights.{name}: no such label; the data have {', '.join(labels)[:200]}."
            )
        if not weight > 0:
            raise ConfigError(f"objective.class_weights.{name}={weight}: must be above 0.")
    return tuple(float(settings.class_weights.get(label, 1.0)) for label in labels)


def members_of_texts(settings: ObjectiveSettings) -> tuple[str, ...]:
    """What it reads of blocks."""
    return (LABEL,)


def members_of_tokens(settings: ObjectiveSettings) -> tuple[str, ...]:
    """What it reads of blocks."""
    return (TAGS,)

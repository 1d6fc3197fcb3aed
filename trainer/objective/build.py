"""What a run learns: the seam between rows of tokens and a loss. One more objective is a file here and a row below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from trainer.config import Data, ObjectiveSettings
from trainer.data.tokens.dataset import Dataset
from trainer.data.tokens.loader import Batch
from trainer.data.tokens.manifest import Manifest
from trainer.data.tokens.token_rows import GatheredRows
from trainer.errors import ConfigError
from trainer.model.build import LanguageModel
from trainer.model.hugging_face.heads import CAUSAL, CLASSIFY, MASKED, SEQ2SEQ, TAG
from trainer.objective import causal, classify, distill, dpo, masked, orpo, reward, seq2seq, simpo
from trainer.objective.losses import Losses

# A model, or DeepSpeed's engine around one
Model = Callable[..., Any]


class Objective(Protocol):
    """From rows to a batch, and from a model and a batch to losses.

    The loop divides the sum of losses by the units of the global batch, over all ranks and micro-steps: the targets, or
    what else the objective counts. A target that is `IGNORED` counts for nothing, nor does a row without any other.
    """

    @property
    def unit(self) -> str:
        """What a loss is a mean over, in a word of the plural: "tokens" are targets, and losses nats of them."""

    @property
    def scale(self) -> str:
        """What a loss is in, as it stands behind a number: "nats per token"."""

    def check_model(self, model: LanguageModel) -> None:
        """Refuses a model that can't be trained for this, in one line, once it has its weights."""

    def to_batch(self, rows: GatheredRows, *, positions: np.ndarray) -> Batch:
        """Rows, which stand at `positions` (n,) of the run, as a batch: tokens (n, L + 1), or TokenRows of n.

        What becomes of a row may depend on its tokens and position alone, since the batch is cut into micro-batches.
        """

    def losses(self, model: Model, batch: Batch) -> Losses:
        """The losses of each row, and what is measured beside. The one place that calls a model to train it."""

    def units(self, batch: Batch) -> Tensor:
        """How many units each row has; (rows,) int64. Of whole rows, before they are spread over ranks."""

    def units_per_row(self) -> int | None:
        """How many units every row has, or None where rows differ: then they are counted."""


@dataclass(frozen=True)
class Kind:
    """An objective: what makes it, the members of blocks (block_members.KINDS) that it reads, and the head it trains.

    `head` is what a Hugging Face model is asked for (model.head), `extra_ids` how many ids above the tokenizer's
    vocabulary are used. One with labels learns those of its data, or `fixed_labels`. `taught` are members that it reads
    while training alone.
    """

    build: Callable[[ObjectiveSettings, Data, Manifest, int], Objective]
    members: Callable[[ObjectiveSettings], tuple[str, ...]] = lambda settings: ()
    head: str = CAUSAL
    extra_ids: Callable[[ObjectiveSettings, Data, Manifest], int] = lambda settings, data, manifest: 0
    has_labels: bool = False
    fixed_labels: tuple[str, ...] = ()
    taught: Callable[[ObjectiveSettings], tuple[str, ...]] = lambda settings: ()


KINDS: dict[str, Kind] = {
    "causal": Kind(causal.build),
    "masked": Kind(masked.build, head=MASKED, extra_ids=masked.extra_masks),
    "seq2seq": Kind(seq2seq.build, head=SEQ2SEQ, extra_ids=seq2seq.extra_sentinels),
    "classify": Kind(classify.build_classify, classify.members_of_texts, head=CLASSIFY, has_labels=True),
    "tag": Kind(classify.build_tag, classify.members_of_tokens, head=TAG, has_labels=True),
    "dpo": Kind(dpo.build, lambda settings: dpo.MEMBERS),
    "reward": Kind(
        reward.build, lambda settings: reward.MEMBERS, head=CLASSIFY, has_labels=True, fixed_labels=reward.LABELS
    ),
    "distill": Kind(distill.build, taught=distill.members_of_taught),
    "simpo": Kind(simpo.build, lambda settings: simpo.MEMBERS),
    "orpo": Kind(orpo.build, lambda settings: simpo.MEMBERS),
}

# Members without which tokens are misread, and the objectives that read them
NEEDED = {"sides": "objective=dpo, simpo, orpo or reward"}


def build_objective(settings: ObjectiveSettings, data: Data, manifest: Manifest, *, seed: int) -> Objective:
    """The objective of a run of `seed`, over data with the tokenizer and labels of a manifest."""
    return KINDS[settings.name].build(settings, data, manifest, seed)


def members_of(settings: ObjectiveSettings, *, training: bool = False) -> tuple[str, ...]:
    """The members of blocks that an objective reads besides tokens and targets, of training or of other sets."""
    kind = KINDS[settings.name]
    return kind.members(settings) + (kind.taught(settings) if training else ())


def extra_ids_of(settings: ObjectiveSettings, data: Data, manifest: Manifest) -> int:
    """How many ids above its tokenizer's vocabulary an objective uses: masks that the tokenizer lacks."""
    return KINDS[settings.name].extra_ids(settings, data, manifest)


def check_datasets(settings: ObjectiveSettings, datasets: Sequence[Dataset]) -> None:
    """Refuses data of which the objective would make something else than they are."""
    kind, read = KINDS[settings.name], members_of(settings)
    for dataset in datasets:
        for member, objectives in NEEDED.items():
            if member in dataset.manifest.members and member not in read:
                raise ConfigError(
                    f"objective={settings.name}: {dataset.manifest.folder} holds pairs of answers, a chosen and a "
                    f"rejected one, of which it would take both; use {objectives}."
                )
        if kind.has_labels and not kind.fixed_labels:
            classify.check_labels(settings.labels, dataset.manifest)
        if kind.head == SEQ2SEQ and dataset.packing is not None and dataset.packing.single:
            seq2seq.check_lengths(dataset)

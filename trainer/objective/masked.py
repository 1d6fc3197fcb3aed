"""objective=masked: tokens that were replaced, from all others of the row (Devlin et al. 2019, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainer.config import Data, ObjectiveSettings
from trainer.data.tokens.loader import IGNORED, Batch
from trainer.data.tokens.manifest import Manifest
from trainer.data.tokens.token_rows import GatheredRows, TokenRows
from trainer.data.tokens.word_starts import word_starts
from trainer.errors import ConfigError
from trainer.model.build import LanguageModel
from trainer.model.hugging_face.suitability import require_bidirectional
from trainer.objective.causal import count_targets
from trainer.objective.losses import Losses
from trainer.objective.noise import NOT_A_WORD, choose_words, generator
from trainer.objective.padding import Model, cropped

MASKS = ("[MASK]", "<mask>", "<|mask|>", "<MASK>")
NEW_MASK = "<mask>"
BEGINNINGS = ("[CLS]", "<s>", "<cls>")
REPLACED, RANDOM = 0.8, 0.1  # of the chosen tokens, by the mask and by any other; the rest stay as they are


@dataclass(frozen=True)
class Masked:
    """Of rows of `sequence_length` tokens, `share` are learnt, in whole words where `starts` (vocabulary,) is given.

    `mask` is the id that replaces them, `ordinary` are the ids of tokens that aren't special, `beginning` that of a
    token which rows of the stream begin with.
    """

    sequence_length: int
    share: float
    mask: int
    ordinary: np.ndarray
    special: np.ndarray
    starts: np.ndarray | None
    beginning: int | None
    seed: int
    unit: str = "masked tokens"
    scale: str = "nats per masked token"

    def check_model(self, model: LanguageModel) -> None:
        """Refuses a model that doesn't see what follows a token."""
        require_bidirectional(model, self.sequence_length)

    def to_batch(self, rows: GatheredRows, *, positions: np.ndarray) -> Batch:
        """Rows as a batch: each masked by its position alone."""
        ids: Tensor | None = None
        if isinstance(rows, TokenRows):
            tokens = rows.inputs.astype(np.int64)
            there = np.ones(tokens.shape, bool) if rows.document_ids is None else rows.document_ids == 0
            ids = None if rows.document_ids is None else torch.from_numpy(rows.document_ids)
        else:
            tokens, there = rows[:, :-1].astype(np.int64), np.ones((len(rows), rows.shape[1] - 1), bool)
        if ids is None and self.beginning is not None:
            tokens = np.concatenate((np.full((len(tokens), 1), self.beginning), tokens[:, :-1]), axis=1)
        inputs, targets = tokens.copy(), np.full(tokens.shape, IGNORED, np.int64)
        words = self._words(tokens, there)
        for row, position in enumerate(positions.tolist()):
            draw = generator("masked", self.seed, position)
            chosen = np.flatnonzero(choose_words(words[row], self.share, draw))
            targets[row, chosen] = tokens[row, chosen]
            dice = draw.random(len(chosen))
            others = self.ordinary[draw.integers(0, len(self.ordinary), len(chosen))]
            kept = np.where(dice < REPLACED + RANDOM, others, tokens[row, chosen])
            inputs[row, chosen] = np.where(dice < REPLACED, self.mask, kept)
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), ids, positions)

    def _words(self, tokens: np.ndarray, there: np.ndarray) -> np.ndarray:
        """The word that each token is of, NOT_A_WORD where it is special or padding; (rows, time)."""
        special = self.special[tokens]
        begins = np.ones(tokens.shape, bool) if self.starts is None else self.starts[tokens].copy()
        begins[:, 0] = True
        begins[:, 1:] |= special[:, :-1]
        return np.where(there & ~special, begins.cumsum(axis=1) - 1, NOT_A_WORD)

    def losses(self, model: Model, batch: Batch) -> Losses:
        """The sum of each row's losses; (rows,) fp32."""
        batch = cropped(batch)
        return Losses(model(batch.inputs, batch.targets, batch.document_ids))

    def units(self, batch: Batch) -> Tensor:
        """The targets of each row."""
        return count_targets(batch)

    def units_per_row(self) -> int | None:
        """Rows differ, by their words and special tokens."""
        return None


def build(settings: ObjectiveSettings, data: Data, manifest: Manifest, seed: int) -> Masked:
    """The objective over data of a tokenizer."""
    special = np.zeros(manifest.vocab_size, bool)
    special[list(manifest.special_ids.values())] = True
    special[manifest.end_of_text] = True
    return Masked(
        sequence_length=data.sequence_length,
        share=settings.noise,
        mask=mask_id(settings, manifest),
        ordinary=np.flatnonzero(~special),
        special=special,
        starts=word_starts(manifest.tokenizer_file) if settings.whole_words else None,
        beginning=_first(BEGINNINGS, manifest.special_ids),
        seed=seed,
    )


def mask_id(settings: ObjectiveSettings, manifest: Manifest) -> int:
    """The mask's id: the tokenizer's own, or where it has none, the first above its vocabulary."""
    wanted = settings.mask_token
    if wanted is not None and wanted not in manifest.special_ids:
        raise ConfigError(
            f"objective.mask_token={wanted}: the tokenizer of {manifest.folder} has no such special token; leave it "
            f"out, and the mask takes an id above its vocabulary of {manifest.vocab_size:,}."
        )
    return manifest.special_ids.get(mask_token(settings, manifest.special_ids), manifest.vocab_size)


def mask_token(settings: ObjectiveSettings, special_ids: Mapping[str, int]) -> str:
    """The mask's name: the tokenizer's own, or one for a token that it lacks."""
    return settings.mask_token or next((name for name in MASKS if name in special_ids), NEW_MASK)


def _first(names: tuple[str, ...], ids: Mapping[str, int]) -> int | None:
    return next((ids[name] for name in names if name in ids), None)


def extra_masks(settings: ObjectiveSettings, data: Data, manifest: Manifest) -> int:
    """How many ids above the tokenizer's vocabulary are used."""
    return max(0, mask_id(settings, manifest) + 1 - manifest.vocab_size)

"""objective=seq2seq: what an encoder–decoder writes for a source: the target of a pair, or spans that were dropped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainer.config import Data, ObjectiveSettings
from trainer.data.tokens.dataset import Dataset
from trainer.data.tokens.loader import IGNORED, Batch
from trainer.data.tokens.manifest import Manifest
from trainer.data.tokens.token_rows import GatheredRows, TokenRows
from trainer.errors import ConfigError
from trainer.model.build import LanguageModel
from trainer.objective.causal import count_targets
from trainer.objective.losses import Losses
from trainer.objective.noise import choose_spans, generator, span_counts
from trainer.objective.padding import Model, cropped, cropped_targets


@dataclass(frozen=True)
class SourceTargets:
    """Rows of one pair each: its source, and from the first token that is learnt on, its target."""

    unit: str = "tokens"
    scale: str = "nats per token"

    def check_model(self, model: LanguageModel) -> None:
        """Every encoder–decoder can."""

    def to_batch(self, rows: GatheredRows, *, positions: np.ndarray) -> Batch:
        """Rows as a batch: sources, padded; targets, padded with IGNORED."""
        assert isinstance(rows, TokenRows)
        assert rows.document_ids is not None
        count, length = rows.inputs.shape
        there = rows.document_ids == 0
        counted = rows.counted & there
        first = np.where(counted.any(axis=1), counted.argmax(axis=1), length)  # of the targets: the source ends there
        places = np.arange(length)
        sources = np.where(places <= first[:, None], rows.inputs, 0).astype(np.int64)
        targets = np.full((count, length), IGNORED, np.int64)
        for row, start in enumerate(first.tolist()):
            written = rows.targets[row, start:][there[row, start:]]
            targets[row, : len(written)] = written
        ids = torch.from_numpy((places > first[:, None]).astype(np.int64))
        return Batch(torch.from_numpy(sources), torch.from_numpy(targets), ids, positions)

    def losses(self, model: Model, batch: Batch) -> Losses:
        """The sum of each row's losses; (rows,) fp32."""
        return _losses(model, batch)

    def units(self, batch: Batch) -> Tensor:
        """The targets of each row."""
        return count_targets(batch)

    def units_per_row(self) -> int | None:
        """SourceTargets differ."""
        return None


@dataclass(frozen=True)
class Spans:
    """Rows of `sequence_length` tokens of the stream, of which spans are dropped; `sentinels` (spans,) mark them."""

    sequence_length: int
    share: float
    mean: float
    sentinels: np.ndarray
    end_of_text: int
    seed: int
    unit: str = "tokens of spans"
    scale: str = "nats per token of spans"

    def check_model(self, model: LanguageModel) -> None:
        """Every encoder–decoder can."""

    def to_batch(self, rows: GatheredRows, *, positions: np.ndarray) -> Batch:
        """Rows as a batch: what is kept, with a sentinel for each span; the sentinels, each with its span. Both end."""
        assert isinstance(rows, np.ndarray)
        tokens = rows[:, :-1].astype(np.int64)
        sources, targets = [], []
        for row, position in zip(tokens, positions.tolist(), strict=True):
            span = choose_spans(self.sequence_length, self.share, self.mean, generator("spans", self.seed, position))
            begins = (span >= 0) & (np.concatenate(([-1], span[:-1])) != span)
            marks = self.sentinels[span.clip(0)]
            sources.append(np.append(np.where(begins, marks, row)[(span < 0) | begins], self.end_of_text))
            # a sentinel before each span's first token
            before = np.insert(row, np.flatnonzero(begins), marks[begins])
            kept = np.insert(span >= 0, np.flatnonzero(begins), True)
            targets.append(np.append(before[kept], self.end_of_text))
        return Batch(torch.from_numpy(np.stack(sources)), torch.from_numpy(np.stack(targets)), None, positions)

    def losses(self, model: Model, batch: Batch) -> Losses:
        """The sum of each row's losses; (rows,) fp32."""
        return _losses(model, batch)

    def units(self, batch: Batch) -> Tensor:
        """The targets of each row."""
        return count_targets(batch)

    def units_per_row(self) -> int | None:
        """The same in every row: dropped tokens, sentinels and the end."""
        return sum(span_counts(self.sequence_length, self.share, self.mean)) + 1


def _losses(model: Model, batch: Batch) -> Losses:
    targets = cropped_targets(batch.targets)
    batch = cropped(batch)
    return Losses(model(batch.inputs, targets, batch.document_ids))


def build(settings: ObjectiveSettings, data: Data, manifest: Manifest, seed: int) -> SourceTargets | Spans:
    """SourceTargets where the shards say what is learnt, spans of plain text; or as objective.spans says."""
    if not has_spans(settings, manifest):
        _require_pairs(data, manifest)
        return SourceTargets()
    if manifest.has_targets:
        raise ConfigError(
            f"objective.spans=true: {manifest.folder} holds pairs, of which the targets are learnt; leave it out, or "
            "prepare plain text."
        )
    if data.separates_documents or data.packing != "stream":
        raise ConfigError(
            f"data.packing={data.packing}, data.mask_documents={str(data.mask_documents).lower()}: spans are dropped "
            "from rows of the stream; use data.packing=stream and data.mask_documents=false."
        )
    if data.sequence_length < 2:
        raise ConfigError(f"data.sequence_length={data.sequence_length}: nothing can be dropped; use 2 or more.")
    return Spans(
        sequence_length=data.sequence_length,
        share=settings.noise,
        mean=settings.mean_span,
        sentinels=sentinel_ids(settings, data, manifest),
        end_of_text=manifest.end_of_text,
        seed=seed,
    )


def has_spans(settings: ObjectiveSettings, manifest: Manifest) -> bool:
    """Whether spans are dropped: where it isn't said, from plain text."""
    return not manifest.has_targets if settings.spans is None else settings.spans


def _require_pairs(data: Data, manifest: Manifest) -> None:
    if not manifest.has_targets:
        raise ConfigError(
            f"objective.spans=false: {manifest.folder} holds plain text, no pairs; prepare it with data.format="
            "seq2seq or prompt_completion, or leave objective.spans out."
        )
    if data.packing != "single":
        raise ConfigError(
            f"data.packing={data.packing} with pairs of a source and a target: an encoder would see several sources at "
            "once; use data.packing=single, a pair to a row."
        )


def check_lengths(dataset: Dataset) -> None:
    """Refuses pairs whose target would be cut off."""
    shortened = sum(table.shortened for table in dataset.row_tables)
    if shortened:
        raise ConfigError(
            f"data.sequence_length={dataset.sequence_length}: {shortened:,} pairs of {dataset.manifest.folder} are "
            "longer, source and target together; raise it, or leave them out by data.long_documents=reject."
        )


def sentinel_ids(settings: ObjectiveSettings, data: Data, manifest: Manifest) -> np.ndarray:
    """The ids that mark spans: T5's <extra_id_N> where the tokenizer has them, else those above its vocabulary."""
    _, spans = span_counts(data.sequence_length, settings.noise, settings.mean_span)
    own = [manifest.special_ids.get(f"<extra_id_{number}>") for number in range(spans)]
    free = iter(range(manifest.vocab_size, manifest.vocab_size + spans))
    return np.array([next(free) if number is None else number for number in own], np.int64)


def extra_sentinels(settings: ObjectiveSettings, data: Data, manifest: Manifest) -> int:
    """How many ids above the tokenizer's vocabulary are used."""
    if not has_spans(settings, manifest) or data.sequence_length < 2:
        return 0
    return max(0, int(sentinel_ids(settings, data, manifest).max()) + 1 - manifest.vocab_size)

"""Losses on token shards in the format of results: a record for each figure, and what each document adds to it.

A set is a task of its name, and a group of its documents one of SET/KIND/NAME, as their figures are called while
training: eval/SET/source/NAME/bits_per_byte.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import numpy as np
import xxhash

from trainer.data.tokens.dataset import Dataset
from trainer.evaluate.document_losses import DocumentLosses
from trainer.evaluate.loss import Score
from trainer.evaluate.metrics.bootstrap import interval, resampled
from trainer.evaluate.metrics.metric import METRICS
from trainer.evaluate.tasks.task import Measured, TaskOutcome

VERSION = "1"  # of how these figures are reckoned
MOST_SAMPLES = 200_000  # documents that are logged, and drawn again for intervals
BITS = "bits_per_byte"


def loss_outcomes(
    dataset: Dataset, result: Score, documents: DocumentLosses | None, *, rows: int, resamples: int
) -> list[TaskOutcome]:
    """The set's figures, and those of its groups. Rank 0 calls it."""
    packing = None if dataset.packing is None else list(astuple(dataset.packing))
    asked = [dataset.manifest.fingerprint, rows, dataset.sequence_length, packing]
    fingerprint = xxhash.xxh3_128_hexdigest(repr(asked).encode())
    low = [Measured("loss", result.loss, higher_is_better=False)]
    if result.bits_per_byte is None or documents is None or documents.documents is None or documents.nats is None:
        if result.bits_per_byte is not None:
            low.append(Measured(BITS, result.bits_per_byte, higher_is_better=False))
        return [TaskOutcome(dataset.name, VERSION, dataset.manifest.documents, fingerprint, low)]
    scored, nats = documents.documents, documents.nats
    per_token = dataset.manifest.text_bytes / dataset.manifest.tokens  # as the set's own figure has it
    low += _bits(result.bits_per_byte, -nats, scored.tokens * per_token, resamples)
    samples = _samples(dataset.name, scored.numbers, -nats, scored.tokens * per_token)
    outcomes = [TaskOutcome(dataset.name, VERSION, len(nats), fingerprint, low, samples)]
    for kind, (names, members) in scored.groups.items():
        for name, group in result.groups[kind].items():
            chosen = np.flatnonzero(members == names.index(name))
            if not group.text_bytes:
                continue
            measured = _bits(group.bits_per_byte, -nats[chosen], scored.text_bytes[chosen], resamples)
            measured.append(Measured("tokens_per_byte", group.tokens_per_byte, higher_is_better=False))
            task = f"{dataset.name}/{kind}/{name}"
            samples = _samples(task, scored.numbers[chosen], -nats[chosen], scored.text_bytes[chosen])
            outcomes.append(TaskOutcome(task, VERSION, len(chosen), fingerprint, measured, samples))
    return outcomes


def _bits(value: float, likelihoods: np.ndarray, sizes: np.ndarray, resamples: int) -> list[Measured]:
    """Bits per byte, with an interval over documents."""
    stderr = low = high = None
    if resamples and 1 < len(sizes) <= MOST_SAMPLES:
        values = list(zip(likelihoods.tolist(), sizes.tolist(), strict=True))
        with np.errstate(divide="ignore", invalid="ignore"):  # a draw of nothing but empty documents
            figures = resampled(values, METRICS[BITS].aggregate, resamples)
        if np.isfinite(figures).all():
            (low, high), stderr = interval(figures), float(figures.std(ddof=1))
    return [Measured(BITS, value, stderr, low, high, higher_is_better=False)]


def _samples(task: str, numbers: np.ndarray, likelihoods: np.ndarray, sizes: np.ndarray) -> list[dict[str, Any]]:
    """What each document adds to the figure, by which `banyan evaluate compare` tells noise."""
    if len(numbers) > MOST_SAMPLES:
        return []
    return [
        {"task": task, "doc_id": number, "metrics": {BITS: [likelihood, size]}}
        for number, likelihood, size in zip(numbers.tolist(), likelihoods.tolist(), sizes.tolist(), strict=True)
    ]

"""The documents of a training step, worst rows first: what a spike is logged with."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trainer.config import Pretrain
from trainer.data.tokens.dataset import Dataset
from trainer.data.tokens.history import History
from trainer.data.tokens.order import Order
from trainer.run.provenance import spans_in_row
from trainer.track.spike_record import StepDocument


def worst_documents(
    config: Pretrain,
    training: Sequence[Dataset],
    history: History,
    step: int,
    row_losses: Sequence[float | None] | None,
) -> list[StepDocument]:
    """The first track.spike_documents documents of a step, of its rows by loss, the highest first.

    Where the losses aren't known, of its rows in their order. Within a row, the document with the most tokens in it
    comes first: a row's loss is that of all its documents.
    """
    first, stop = history.positions_of(step)
    rows = [dataset.rows for dataset in training]
    order = Order(rows, history.segments, seed=config.seed, window=config.data.shuffle_shards)
    places = order.places(first, stop)
    losses = list(row_losses) if row_losses is not None else [None] * len(places)
    ranked = sorted(range(len(places)), key=lambda number: _rank(losses[number]))
    by_fingerprint = {dataset.manifest.fingerprint: dataset for dataset in training}
    found: list[StepDocument] = []
    for number in ranked:
        if len(found) >= config.track.spike_documents:
            break
        place = places[number]
        dataset = by_fingerprint[place.fingerprint]
        spans = sorted(spans_in_row(dataset, place.shard, place.row), key=lambda span: span[1] - span[2])
        found += [
            StepDocument(
                position=first + number,
                dataset=place.dataset,
                source=dataset.manifest.source_name(document.source),
                record=document.record,
                first=begin - document.start,
                last=end - document.start - 1,
                tokens=document.stop - document.start,
                row_loss=_finite(losses[number]),
            )
            for document, begin, end in spans
        ]
    return found[: config.track.spike_documents]


def _rank(loss: float | None) -> float:
    """What isn't finite comes first, what isn't known last."""
    if loss is None:
        return math.inf
    return -loss if math.isfinite(loss) else -math.inf


def _finite(loss: float | None) -> float | None:
    return loss if loss is not None and math.isfinite(loss) else None

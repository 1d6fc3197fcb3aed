"""Pairs of answers, a chosen and a rejected one, in rows of whole documents, each of which is a pair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.data.tokens.loader import IGNORED, Batch
from trainer.data.tokens.token_rows import GatheredRows, TokenRows
from trainer.errors import InputError
from trainer.objective import causal
from trainer.objective.losses import Losses

SIDES, REFERENCE = "sides", "reference"  # members of blocks (block_members.KINDS), and what batches hold more


def batch_of_pairs(rows: GatheredRows, *, positions: np.ndarray) -> Batch:
    """Rows of pairs as a batch, in which both sides of pair i are documents of their own: 2i, chosen, and 2i + 1.

    The batch holds more: `sides` (rows, pairs, 1), which is 0 where a row has fewer pairs, and `reference` (rows,
    pairs, 2) where the shards have it. InputError where a side would be empty.
    """
    assert isinstance(rows, TokenRows)
    assert rows.document_ids is not None
    sides = rows.by_document[SIDES].astype(np.int64)[..., 0]  # (rows, pairs)
    pair_of = rows.document_ids  # (rows, time); padding's is the number of pairs
    time = np.arange(pair_of.shape[1])
    begins = np.diff(pair_of, axis=1, prepend=-1) != 0
    within = time - np.maximum.accumulate(np.where(begins, time, 0), axis=1)
    side = np.take_along_axis(np.pad(sides, ((0, 0), (0, 1))), pair_of, axis=1)  # of padding 0
    places = np.array([np.bincount(row, minlength=sides.shape[1] + 1)[: sides.shape[1]] for row in pair_of])
    if ((sides < 2) & (sides != 0)).any() or (sides > places)[sides != 0].any():
        raise InputError("a pair of answers, of which one would have no token: the shards are damaged; prepare again.")
    ids = 2 * pair_of + ((within >= side) & (side > 0))
    counted = rows.counted & (within != side - 1)  # the rejected side's first token doesn't follow from the chosen
    batch = causal.to_batch(replace(rows, document_ids=ids, counted=counted), positions=positions, end_of_text=None)
    more = {name: torch.from_numpy(values.astype(np.float32)) for name, values in rows.by_document.items()}
    return replace(batch, more=more | {SIDES: torch.from_numpy(sides[..., None])})


def sum_sides(values: Tensor, batch: Batch) -> Tensor:
    """Sums of numbers of targets, (rows, time), over the sides of each pair: (rows, pairs, 2), fp64."""
    pairs = batch.more[SIDES].shape[1]
    assert batch.document_ids is not None
    counted = torch.where(batch.targets != IGNORED, values.double(), 0.0)
    of_side = torch.arange(2 * pairs, device=values.device)[None, :, None] == batch.document_ids[:, None, :]
    return (of_side * counted[:, None, :]).sum(dim=2).view(-1, pairs, 2)


def count_sides(batch: Batch) -> Tensor:
    """How many targets each side has: (rows, pairs, 2), fp64."""
    return sum_sides(torch.ones(batch.targets.shape, device=batch.targets.device), batch)


def count_pairs(batch: Batch) -> Tensor:
    """How many pairs of each row count, both of whose sides have targets; (rows,) int64."""
    return is_pair(count_sides(batch)).sum(dim=1)


def is_pair(lengths: Tensor) -> Tensor:
    """Which pairs count, by the targets of their sides: (rows, pairs) bool."""
    return (lengths > 0).all(dim=2)


def log_probabilities(model: Callable[..., Any], batch: Batch) -> Tensor:
    """Of each side's answer, in nats, given its prompt: (rows, pairs, 2), fp64; without z-loss and penalties."""
    targets = batch.targets.flatten()

    def of_targets(logits: Tensor, place: slice) -> Tensor:
        return -F.cross_entropy(logits, targets[place], ignore_index=IGNORED, reduction="none")

    return sum_sides(model(batch.inputs, document_ids=batch.document_ids, from_logits=of_targets), batch)


def smoothed(logits: Tensor, label_smoothing: float) -> Tensor:
    """-log of the probability that the label is right, sigmoid(logits), where the share `label_smoothing` is wrong."""
    return -(1 - label_smoothing) * F.logsigmoid(logits) - label_smoothing * F.logsigmoid(-logits)


def reward_measures(rewards: Tensor) -> dict[str, Tensor]:
    """What TRL logs of the rewards of both sides, (…, 2), by its names: of each pair, (…,)."""
    chosen, rejected = rewards.unbind(dim=-1)
    return {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": (chosen > rejected).double(),
    }


def log_probability_measures(found: Tensor) -> dict[str, Tensor]:
    """The log-probabilities of both sides, (…, 2), by TRL's names."""
    return {"logps/chosen": found[..., 0], "logps/rejected": found[..., 1]}


def sum_pairs(losses: Tensor, measures: dict[str, Tensor], counts: Tensor) -> Losses:
    """Losses and measures of pairs, (rows, pairs), of those that count, summed by row."""
    rows = torch.where(counts, losses, 0.0).sum(dim=1).float()
    return Losses(rows, {name: torch.where(counts, of.detach(), 0.0).sum(dim=1) for name, of in measures.items()})

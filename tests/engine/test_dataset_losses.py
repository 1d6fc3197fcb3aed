"""Losses of a step are told apart by the dataset that each row is from, also where ranks have rows of several."""

import numpy as np
import pytest
import torch

from trainer.data.tokens.loader import IGNORED, Batch
from trainer.data.tokens.order import Order, Rows, extend
from trainer.engine.dataset_losses import DatasetLosses
from trainer.objective.causal import count_targets

SETS = [Rows("chat", "c" * 64, (30, 20)), Rows("rare", "r" * 64, (7,)), Rows("text", "t" * 64, (100,))]
ORDER = Order(SETS, extend([], first=0, rows=SETS, weights={"chat": 2, "rare": 0.1, "text": 3}), seed=1, window=2)


def micro_batch(first, rows=4, time=6):
    """Rows of which the one at position p has 1 + p % time targets."""
    positions = np.arange(first, first + rows)
    targets = torch.full((rows, time), IGNORED)
    for row, position in enumerate(positions):
        targets[row, : 1 + position % time] = 1
    return Batch(torch.zeros_like(targets), targets, None, positions)


def test_each_row_counts_for_its_own_dataset():
    ranks = [DatasetLosses(SETS, ORDER, 6) for _ in range(2)]
    for number, by_dataset in enumerate(ranks):
        by_dataset.add(micro_batch(500), torch.ones(4), torch.ones(4))  # of the step before
        by_dataset.begin_step()
        for micro_step in range(2):
            batch = micro_batch(4 * (2 * micro_step + number))
            by_dataset.add(batch, torch.from_numpy(batch.positions * 10.0), count_targets(batch))
    metrics = ranks[0].metrics(ranks[0].sums() + ranks[1].sums(), position=400)
    for name, total in (("chat", 50), ("rare", 7), ("text", 100)):
        taken = sum(place.dataset == name for place in ORDER.places(0, 400))
        assert metrics[f"train/{name}/unique_tokens"] == 6 * min(taken, total)
        assert metrics[f"train/{name}/repeated_tokens"] == 6 * max(0, taken - total)
    places = ORDER.places(0, 16)
    assert "train/rare/loss" not in metrics  # none of its rows was in the step
    for name in ("chat", "text"):
        mine = [position for position, place in enumerate(places) if place.dataset == name]
        targets = sum(1 + position % 6 for position in mine)
        assert metrics[f"train/{name}/tokens"] == targets
        assert metrics[f"train/{name}/loss"] == pytest.approx(10 * sum(mine) / targets)


def test_rows_that_pad_a_step_count_for_nothing():
    by_dataset = DatasetLosses(SETS, ORDER, 6)
    by_dataset.begin_step()
    batch = micro_batch(0).without_targets(0)
    by_dataset.add(batch, torch.zeros(4), count_targets(batch))
    metrics = by_dataset.metrics(by_dataset.sums(), position=0)
    assert set(metrics.values()) == {0}
    assert all(name.endswith(("unique_tokens", "repeated_tokens")) for name in metrics)

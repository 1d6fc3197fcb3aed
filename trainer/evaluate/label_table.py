"""The labels of a validation set and what was predicted, over all ranks, and the figures made of them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
import torch.distributed
from torch import Tensor

from trainer.data.tokens.loader import IGNORED
from trainer.evaluate.label_metrics import entity_metrics, has_entities, label_metrics
from trainer.ranks.mesh import Mesh


@runtime_checkable
class PredictsLabels(Protocol):
    """An objective whose losses come with predictions."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """What the numbers among predictions stand for."""


class LabelTable:
    """Rows of labels, of which each rank adds some; (rows, width), as wide as the widest."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._held: list[tuple[int, Tensor, Tensor]] = []

    def add(self, first: int, gold: Tensor, predicted: Tensor) -> None:
        """Labels of rows from `first` on; predictions may be narrower, where nothing counts."""
        self._held.append((first, gold[:, : predicted.shape[1]], predicted))

    def forget(self) -> None:
        """Where a neighbour has the same."""
        self._held.clear()

    def figures(self, objective: PredictsLabels, mesh: Mesh) -> dict[str, float]:
        """Precision, recall and F1, the same on every rank: of entities where labels tag them, else of labels."""
        width = torch.tensor([max((gold.shape[1] for _, gold, _ in self._held), default=1)])
        if mesh.world_size > 1:
            torch.distributed.all_reduce(width, torch.distributed.ReduceOp.MAX, group=mesh.control)
        table = torch.zeros(2, self._rows, int(width), dtype=torch.int32)  # one more than the numbers; 0 is none
        for first, gold, predicted in self._held:
            there = gold != IGNORED
            for half, values in zip(table, (gold, predicted), strict=True):
                half[first : first + len(gold), : gold.shape[1]] = torch.where(there, values + 1, 0)
        if mesh.world_size > 1:
            torch.distributed.all_reduce(table, group=mesh.control)
        gold, predicted = torch.where(table > 0, table - 1, IGNORED).numpy()
        measure = entity_metrics if has_entities(objective.label_names) else label_metrics
        return measure(objective.label_names, gold, predicted)

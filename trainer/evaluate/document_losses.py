"""The losses of documents while rows of them are scored, on any number of ranks.

A document may lie in several rows, and these on several ranks. Each piece of it in a row is summed where that row is,
then pieces are added up in file order in double precision, so the number of ranks doesn't show.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from trainer.config import Evaluate
from trainer.data.tokens.dataset import Dataset
from trainer.data.tokens.document_pieces import DocumentPieces, document_pieces
from trainer.data.tokens.manifest import has_text_alone
from trainer.evaluate.groups import NONE, GroupScore, ScoredDocuments, open_documents
from trainer.model.loss import hearing
from trainer.objective.build import Objective
from trainer.objective.causal import Causal
from trainer.objective.distill import Distill
from trainer.ranks.mesh import Mesh


class DocumentLosses:
    """Losses of the documents of a set's rows. Rank 0 alone has the `documents`, and their `nats` in the end."""

    def __init__(self, pieces: DocumentPieces, documents: ScoredDocuments | None) -> None:
        self._pieces = pieces
        self.documents = documents
        self.nats: np.ndarray | None = None
        self._nats = torch.zeros(len(pieces.targets), dtype=torch.float64)
        self._heard: list[Tensor] = []

    def listening(self, module: Any) -> AbstractContextManager[None]:
        """Where the losses of targets are heard."""
        return hearing(module, self._heard)

    def add(self, first: int, rows: int, length: int, mesh: Mesh) -> None:
        """Adds what was heard of a batch of rows from `first` on, of which `rows` count; of each, this rank's part."""
        heard = torch.cat(self._heard).view(-1, length)[:rows].double().cpu().numpy()
        self._heard.clear()
        if rows == 0 or mesh.tensor_rank > 0:  # neighbours have the same
            return
        whole = np.zeros((rows, length * mesh.sequence))
        whole[:, mesh.sequence_rank * length : (mesh.sequence_rank + 1) * length] = heard
        pieces, sums = self._pieces.sum_targets(first, whole)
        self._nats[pieces] = torch.from_numpy(sums)

    def by_group(self, mesh: Mesh) -> dict[str, dict[str, GroupScore]]:
        """Every group's figures, on every rank, which all call it; then it begins anew."""
        if mesh.world_size > 1:
            torch.distributed.all_reduce(self._nats, group=mesh.control)
        found = None
        if self.documents is not None:
            places = np.searchsorted(self.documents.numbers, self._pieces.documents)
            self.nats = np.bincount(places, self._nats.numpy(), len(self.documents.numbers))
            found = {
                kind: {name: vars(each) for name, each in groups.items()}
                for kind, groups in self.documents.by_group(self.nats).items()
            }
        self._nats.zero_()
        spread = mesh.from_main(found) or {}
        return {kind: {name: GroupScore(**each) for name, each in groups.items()} for kind, groups in spread.items()}


def open_documents_of(
    objective: Objective,
    dataset: Dataset,
    settings: Evaluate,
    rows: int,
    mesh: Mesh,
    *,
    say: Callable[[str], None],
    beat: Callable[[], None] = lambda: None,
) -> DocumentLosses | None:
    """What the losses of a set's first `rows` rows are told by; None where evaluate.split_by or the objective asks
    for none. Every rank calls it; what is wrong with a shard is raised on all."""
    whole = isinstance(objective, Causal | Distill) and has_text_alone(dataset.manifest)
    if settings.split_by == NONE or not whole or rows == 0:
        return None
    pieces, held = document_pieces(dataset, rows), []

    def read() -> None:
        held.append(open_documents(dataset, pieces, settings.split_by, say=say, beat=beat))

    mesh.main_finds(read)
    return DocumentLosses(pieces, held[0] if held else None)

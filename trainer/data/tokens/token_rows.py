"""Rows of which not every token is a target, or which hold whole documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class TokenRows:
    """Rows of tokens: `inputs` and `targets` (rows, L), of one dtype; target i is what follows input i.

    `counted` (rows, L) bool says which targets are learnt. `document_ids` (rows, L) int64 tell the documents of a row
    apart, padding being one of its own; None where documents follow each other as in the shard. `by_token` are members
    of block_members.KINDS (rows, L, width) of the targets, and `by_document` (rows, documents, width) of a row's
    documents in the order of their ids, 0 where it has fewer.
    """

    inputs: np.ndarray
    targets: np.ndarray
    counted: np.ndarray
    document_ids: np.ndarray | None
    by_token: Mapping[str, np.ndarray] = field(default_factory=dict)
    by_document: Mapping[str, np.ndarray] = field(default_factory=dict)

    @staticmethod
    def of_tokens(tokens: np.ndarray, counted: np.ndarray | None = None) -> TokenRows:
        """Rows from tokens (rows, L + 1) of the stream; without `counted`, every token but a row's first is learnt."""
        counted = np.ones((len(tokens), tokens.shape[1] - 1), bool) if counted is None else counted
        return TokenRows(tokens[:, :-1], tokens[:, 1:], counted, None)


# Rows as a dataset gives them: tokens (rows, L + 1) alone where that says all
GatheredRows = np.ndarray | TokenRows


def merge_rows(parts: Sequence[tuple[np.ndarray, GatheredRows]], count: int) -> GatheredRows:
    """`count` rows from parts, each with the numbers (n,) of its rows among them: of several datasets."""
    if all(isinstance(part, np.ndarray) for _, part in parts):
        arrays: list[np.ndarray] = [part for _, part in parts if isinstance(part, np.ndarray)]
        rows = np.empty((count, arrays[0].shape[1]), np.result_type(*arrays))
        for chosen, part in parts:
            rows[chosen] = part
        return rows
    full = [(chosen, TokenRows.of_tokens(part) if isinstance(part, np.ndarray) else part) for chosen, part in parts]
    length, kind = full[0][1].inputs.shape[1], np.result_type(*(part.inputs for _, part in full))
    packed = [part.document_ids is not None for _, part in full]
    if any(packed) and not all(packed):
        raise ValueError("rows of whole documents can't be mixed with rows of the stream")
    inputs, targets = np.empty((count, length), kind), np.empty((count, length), kind)
    counted, ids = np.empty((count, length), bool), np.empty((count, length), np.int64)
    for chosen, part in full:
        inputs[chosen], targets[chosen], counted[chosen] = part.inputs, part.targets, part.counted
        if part.document_ids is not None:
            ids[chosen] = part.document_ids
    by_token = _merge_members([(chosen, part.by_token) for chosen, part in full], count)
    by_document = _merge_members([(chosen, part.by_document) for chosen, part in full], count)
    return TokenRows(inputs, targets, counted, ids if all(packed) else None, by_token, by_document)


def _merge_members(parts: Sequence[tuple[np.ndarray, Mapping[str, np.ndarray]]], count: int) -> dict[str, np.ndarray]:
    """Members of `count` rows from those of parts, which all have the same; fewer columns are filled with 0."""
    merged = {}
    for name in parts[0][1]:
        arrays = [members[name] for _, members in parts]
        shape = (count, max(array.shape[1] for array in arrays), arrays[0].shape[2])
        merged[name] = np.zeros(shape, np.result_type(*arrays))
        for (chosen, _), array in zip(parts, arrays, strict=True):
            merged[name][chosen, : array.shape[1]] = array
    return merged

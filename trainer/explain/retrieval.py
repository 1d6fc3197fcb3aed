"""How well queries find their positives by cosine similarity: recall@k and MRR."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

QUERIES = 256  # scored at once


def ranks_of_positives(
    query_vectors: Tensor, text_vectors: Tensor, queries: Sequence[str], texts: Sequence[int]
) -> Tensor:
    """The rank of each pair's positive among all distinct texts, from 1: (pairs,) int64.

    query_vectors: (pairs, d); text_vectors: (distinct texts, d); `texts` says which of these is a pair's positive. Of
    texts that are as similar as the positive none goes after it: a model that gives one vector to all finds nothing.
    Other positives of the same query, in other records, aren't counted against it.
    """
    alike: dict[str, set[int]] = {}
    for query, text in zip(queries, texts, strict=True):
        alike.setdefault(query, set()).add(text)
    unit = torch.nn.functional.normalize(text_vectors.double(), dim=-1)
    ranks = []
    for begin in range(0, len(queries), QUERIES):
        scores = torch.nn.functional.normalize(query_vectors[begin : begin + QUERIES].double(), dim=-1) @ unit.T
        for row, query, text in zip(scores, queries[begin:], texts[begin:], strict=False):
            others = row.clone()
            others[list(alike[query])] = -torch.inf
            ranks.append(1 + int((others >= row[text] - 1e-12).sum()))
    return torch.tensor(ranks)


def retrieval_metrics(ranks: Tensor, recall_at: Sequence[int]) -> dict[str, tuple[float, float]]:
    """recall@k for each k, and MRR, the mean of 1 / rank; each with its standard error."""
    values = {f"recall@{k}": (ranks <= k).double() for k in recall_at} | {"mrr": 1.0 / ranks.double()}
    return {
        name: (float(value.mean()), float(value.std() / len(value) ** 0.5) if len(value) > 1 else 0.0)
        for name, value in values.items()
    }

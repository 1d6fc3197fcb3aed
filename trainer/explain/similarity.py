"""Cosine and Pearson similarity of vectors."""

from __future__ import annotations

from torch import Tensor

ROWS = 8192  # of a matrix that are compared at once


def cosine_similarity(vector: Tensor, matrix: Tensor) -> Tensor:
    """a · b / (|a| |b|) of a vector (d,) and each row of a matrix (n, d): (n,) fp64; NaN where one is all zeros."""
    return _by_rows(vector, matrix, centred=False)


def pearson_similarity(vector: Tensor, matrix: Tensor) -> Tensor:
    """Pearson's correlation, the cosine of vectors less their own means; NaN where one is constant. As cosine's."""
    return _by_rows(vector, matrix, centred=True)


def _by_rows(vector: Tensor, matrix: Tensor, *, centred: bool) -> Tensor:
    found = matrix.new_empty(len(matrix)).double()
    one = _unit(vector[None].double(), centred)[0]
    for begin in range(0, len(matrix), ROWS):
        found[begin : begin + ROWS] = _unit(matrix[begin : begin + ROWS].double(), centred) @ one
    return found.clamp(-1.0, 1.0)


def _unit(rows: Tensor, centred: bool) -> Tensor:
    if centred:
        rows = rows - rows.mean(dim=-1, keepdim=True)
    return rows / rows.norm(dim=-1, keepdim=True)

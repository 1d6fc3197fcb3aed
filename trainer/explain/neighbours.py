"""Which tokens are nearest to a word: cosine and Pearson similarity in the embedding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.explain.similarity import cosine_similarity, pearson_similarity


@dataclass(frozen=True)
class Neighbour:
    """A token near a word; a measure is NaN where it isn't defined, as of a vector of zeros."""

    id: int
    cosine: float
    pearson: float


def nearest_tokens(table: Tensor, ids: list[int], *, known: int, top_k: int, sort: str, word: str) -> list[Neighbour]:
    """The `top_k` nearest to the mean of the vectors of `ids`, themselves left out.

    table: (vocab_size, hidden_size), whose rows from `known` on no token has. `sort` is cosine or pearson; of equals
    the lower id goes first. InputError, with the word, where its vector is zero or not finite.
    """
    vector = table[ids].double().mean(dim=0)
    cosines, pearsons = (measure(vector, table[:known]).cpu() for measure in (cosine_similarity, pearson_similarity))
    by = cosines if sort == "cosine" else pearsons
    if by.isnan().all():
        raise InputError(f"word={word}: its vector is zero or not finite, so that it is near to nothing.")
    ranked = by.nan_to_num(nan=-torch.inf).clone()
    ranked[ids] = -torch.inf
    order = ranked.sort(descending=True, stable=True).indices
    left = [int(number) for number in order[:top_k] if ranked[number] > -torch.inf]
    return [Neighbour(number, float(cosines[number]), float(pearsons[number])) for number in left]

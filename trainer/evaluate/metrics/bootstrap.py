"""How much of a figure is chance: standard errors, confidence intervals, and paired comparisons by the bootstrap.

Documents are drawn again with replacement (Efron 1979); two models are compared on the same draws (Koehn 2004), so that
what is hard for both doesn't count as a difference. Draws are seeded: the same documents give the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.95
AT_ONCE = 2**22  # numbers drawn together


@dataclass(frozen=True)
class Difference:
    """B's figure less A's, its interval at LEVEL, and the two-sided p-value of there being none."""

    value: float
    low: float
    high: float
    p: float

    @property
    def is_more_than_noise(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class OfSums:
    """A figure of pairs of numbers that is a function of the two sums alone, of numbers or of arrays of them."""

    figure: Callable[[Any, Any], Any]

    def __call__(self, values: Sequence[tuple[float, float]]) -> float:
        """The figure, summed in order."""
        firsts, seconds = zip(*values, strict=True)
        return float(self.figure(sum(firsts), sum(seconds)))


def standard_error(values: Sequence[float]) -> float | None:
    """Of a mean: the sample's deviation (n - 1) over √n; None of a single value."""
    count = len(values)
    if count < 2:
        return None
    middle = sum(values) / count
    return math.sqrt(sum((value - middle) ** 2 for value in values) / (count - 1)) / math.sqrt(count)


def resampled(
    values: Sequence[Any], aggregate: Callable[[Sequence[Any]], Any] | None, resamples: int, seed: int = 0
) -> np.ndarray:
    """The figure of each resample, (resamples,); `aggregate` None: the mean of numbers."""
    return np.array(
        [each for draw in _draws(len(values), resamples, seed) for each in _figures(values, aggregate, draw)]
    )


def interval(figures: np.ndarray) -> tuple[float, float]:
    """Percentiles between which LEVEL of the figures are."""
    low, high = np.percentile(figures, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def compare_pairs(
    first: Sequence[Any],
    second: Sequence[Any],
    aggregate: Callable[[Sequence[Any]], Any] | None,
    resamples: int,
    seed: int = 0,
) -> Difference:
    """The second's figure less the first's; both have a value for each document, in the same order."""
    whole = [np.arange(len(first))[None]]
    (value,) = _differences(first, second, aggregate, whole)
    found = _differences(first, second, aggregate, list(_draws(len(first), resamples, seed)))
    low, high = interval(found)
    opposite = min(float((found <= 0).mean()), float((found >= 0).mean()))
    return Difference(float(value), low, high, min(1.0, 2 * opposite))


def _differences(
    first: Sequence[Any],
    second: Sequence[Any],
    aggregate: Callable[[Sequence[Any]], Any] | None,
    draws: list[np.ndarray],
) -> np.ndarray:
    pairs = ((_figures(first, aggregate, draw), _figures(second, aggregate, draw)) for draw in draws)
    return np.concatenate([np.asarray(later) - np.asarray(earlier) for earlier, later in pairs])


def _figures(values: Sequence[Any], aggregate: Callable[[Sequence[Any]], Any] | None, draw: np.ndarray) -> Any:
    if aggregate is None:
        return np.asarray(values, np.float64)[draw].mean(axis=1)
    if isinstance(aggregate, OfSums):
        pairs = np.asarray(values, np.float64)
        return aggregate.figure(*(pairs[:, place][draw].sum(axis=1) for place in (0, 1)))
    return [aggregate([values[index] for index in row]) for row in draw]


def _draws(count: int, resamples: int, seed: int) -> Any:
    """Indices of resamples, (some, count) at a time."""
    generator = np.random.default_rng(seed)
    at_once = max(1, AT_ONCE // count)
    for first in range(0, resamples, at_once):
        yield generator.integers(0, count, (min(at_once, resamples - first), count))

"""When a loss or a gradient norm is a spike: a pure rule on the values before it, the same wherever it is applied.

A value is a spike where it is above mean + 6 sigma of the last 128 values before it; of fewer than 64 none is judged
(OLMo-core's SkipStepOptimizer, src/olmo_core/optim/skip_step_optimizer.py). Sigma is the sample's (divided by n - 1).
Spikes join the values as all others do, so a level that stays high stops being one. health.sigma and health.window
set both numbers, for health.on_spike=log as for skip and rewind.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Number = TypeVar("Number", float, Any)

SPIKE = "health/spike"  # 1 where a row's step spiked, else 0
WATCHED = ("train/loss", "train/grad_norm")


@dataclass(frozen=True)
class SpikeRule:
    """Above the mean of `window` values plus `sigma` standard deviations, once half of them are there."""

    sigma: float = 6.0
    window: int = 128  # values before the one that is judged

    @property
    def needed(self) -> int:
        """Values that there must be for the next to be judged."""
        return self.window // 2

    def limit(self, values: Sequence[float]) -> float:
        """What the next value after `values` must not exceed; infinite while they are too few."""
        window = values[-self.window :]
        count = len(window)
        if count < max(2, self.needed):
            return math.inf
        first = window[0]
        mean = math.fsum(value - first for value in window) / count  # from the first one: exact where all are the same
        squares = math.fsum((value - first - mean) ** 2 for value in window)
        return self.limit_by_moments(first + mean, squares / (count - 1))

    def limit_by_moments(self, mean: Number, variance: Number) -> Number:
        """The limit by the mean and the sample's variance of a window that is full enough; of floats, or of tensors."""
        return mean + self.sigma * variance**0.5

    @property
    def in_words(self) -> str:
        """The rule as a page or a document says it."""
        return (
            f"above the mean plus {self.sigma:g} standard deviations of the {self.window:,} before it, of which "
            f"{self.needed:,} must be there"
        )


class SpikeWatch:
    """The logged values of what is watched, and which of them are spikes.

    It is as it was after a restart: what it knows is in the rows that a run has logged. Only rows of steps that `every`
    divides join the values, so that the row of a stop, which an uninterrupted run doesn't have, changes nothing.
    """

    def __init__(self, rule: SpikeRule, every: int, rows: Iterable[Mapping[str, float]] = ()) -> None:
        self._rule, self._every = rule, every
        self._values: dict[str, deque[float]] = {name: deque(maxlen=rule.window) for name in WATCHED}
        for row in rows:
            self._add(row)

    def judge(self, row: Mapping[str, float]) -> dict[str, float]:
        """The limits that a row's values exceed, by name: none, or it is a spike. Then the row is one of the past."""
        exceeded = {}
        for name, values in self._values.items():
            limit = self._rule.limit(tuple(values))
            if row.get(name, -math.inf) > limit:
                exceeded[name] = limit
        self._add(row)
        return exceeded

    def _add(self, row: Mapping[str, float]) -> None:
        if row["step"] % self._every:
            return
        for name, values in self._values.items():
            value = row.get(name)
            if value is not None and math.isfinite(value):
                values.append(value)

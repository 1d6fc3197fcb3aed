"""A series of any length in bounded memory, thinned honestly: the least, the greatest and the mean of each stretch.

A spike of a single row in two million stays, with its own step and value. Stretches have the same number of rows
throughout; when there are too many of them, each two become one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

MOST_STRETCHES = 1500
CHUNK = 1 << 14  # rows that are thinned at once


@dataclass
class Thinned:
    """One metric's rows. `width` is how many rows a stretch has; at 1 nothing has been thinned."""

    width: int = 1
    rows: int = 0
    missing: int = 0  # rows whose value wasn't finite
    _steps: list[int] = field(default_factory=list)
    _values: list[float] = field(default_factory=list)
    _stretch: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # number of the stretch
    _least: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))  # (step, value)
    _greatest: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    _sums: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))  # of steps, of values, rows
    _first: tuple[int, float] | None = None
    _last: tuple[int, float] | None = None

    def add(self, step: int, value: float | None) -> None:
        """A row; None or NaN where it has no value."""
        if value is None or value - value != 0:
            self.missing += 1
            return
        self._steps.append(step)
        self._values.append(value)
        if len(self._steps) >= CHUNK:
            self._thin()

    def points(self) -> list[tuple[int, float]]:
        """Rows as they were logged: all, or the least and the greatest of each stretch, with the first and the last."""
        self._thin()
        found = {(int(step), float(value)) for step, value in np.concatenate([self._least, self._greatest])}
        found |= {point for point in (self._first, self._last) if point is not None}
        return sorted(found)

    def means(self) -> list[tuple[float, float]]:
        """The mean step and value of each stretch."""
        self._thin()
        return [(steps / rows, values / rows) for steps, values, rows in self._sums.tolist()]

    @property
    def last(self) -> tuple[int, float] | None:
        """The last row that had a value."""
        self._thin()
        return self._last

    def _thin(self) -> None:
        if not self._steps:
            return
        steps, values = np.array(self._steps, np.float64), np.array(self._values, np.float64)
        if self._first is None:
            self._first = (self._steps[0], self._values[0])
        self._last = (self._steps[-1], self._values[-1])
        stretch = (self.rows + np.arange(len(steps))) // self.width
        self.rows += len(steps)
        self._steps, self._values = [], []
        points = np.stack([steps, values], axis=1)
        self._stretch = np.concatenate([self._stretch, stretch])
        self._least = np.concatenate([self._least, points])
        self._greatest = np.concatenate([self._greatest, points])
        self._sums = np.concatenate([self._sums, np.stack([steps, values, np.ones_like(steps)], axis=1)])
        self._merge()
        while len(self._stretch) > MOST_STRETCHES:
            self.width *= 2
            self._stretch //= 2
            self._merge()

    def _merge(self) -> None:
        """One entry for each stretch."""
        numbers, starts = np.unique(self._stretch, return_index=True)
        if len(numbers) == len(self._stretch):
            return
        by_least = np.lexsort((self._least[:, 1], self._stretch))
        by_greatest = np.lexsort((-self._greatest[:, 1], self._stretch))
        self._least = self._least[by_least][starts]
        self._greatest = self._greatest[by_greatest][starts]
        self._sums = np.add.reduceat(self._sums, starts, axis=0)
        self._stretch = numbers

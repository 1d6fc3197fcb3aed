"""layers.jsonl as heat maps, layer by step: read once, line by line, and thinned honestly in bounded memory.

Where there are more lines than columns, a column stands for several: its cells have the least and the greatest value
of each layer, as they were written, and their colour is that of the one which trouble shows in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MOST_COLUMNS = 160
MOST_LAYERS = 512
MOST = 1e300  # what is beyond isn't drawn

Values = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class Statistic:
    """A heat map: what of a line is in it, by which of the line's lists of names, and which extreme is shown."""

    title: str
    unit: str
    names: str
    values: Values
    shows_least: bool = False


def _of(key: str) -> Values:
    return lambda line: line.get(key)


def _relative(line: dict[str, Any]) -> Any:
    updates, weights = line.get("update_norm"), line.get("weight_norm")
    if not isinstance(updates, list) or not isinstance(weights, list):
        return None
    return [
        a / b if _is_number(a) and _is_number(b) and b > 0 else None for a, b in zip(updates, weights, strict=False)
    ]


def _of_fair_share(choose: Callable[[Iterable[float]], float]) -> Values:
    """An expert's load in each block, as a multiple of what it would be if all had the same."""

    def values(line: dict[str, Any]) -> Any:
        loads = line.get("expert_load")
        if not isinstance(loads, list):
            return None
        return [
            choose(load) * len(load) if isinstance(load, list) and load and all(map(_is_number, load)) else None
            for load in loads
        ]

    return values


def _largest_logit(line: dict[str, Any]) -> Any:
    return [line["logit_max"]] if "logit_max" in line else None


STATISTICS = (
    Statistic("Norm of weights", "", "layers", _of("weight_norm")),
    Statistic("Norm of gradients", "before clipping", "layers", _of("grad_norm")),
    Statistic("Norm of updates", "", "layers", _of("update_norm")),
    Statistic("Updates relative to weights", "ratio of norms", "layers", _relative),
    Statistic("RMS of activations", "", "blocks", _of("activation_rms")),
    Statistic("Zeros in activations", "share", "blocks", _of("zero_share")),
    Statistic("Entropy of attention", "nats", "blocks", _of("attention_entropy"), shows_least=True),
    Statistic("Busiest expert", "of a fair share", "blocks", _of_fair_share(max)),
    Statistic("Idlest expert", "of a fair share", "blocks", _of_fair_share(min), shows_least=True),
    Statistic("Greatest logit", "", "", _largest_logit),
)


@dataclass
class HeatMap:
    """One statistic's columns, oldest first: their first and last steps, least and greatest values by layer."""

    statistic: Statistic
    labels: list[str] = field(default_factory=list)
    width: int = 1  # lines that a column stands for; the last may have fewer
    lines: int = 0
    first: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    least: list[np.ndarray] = field(default_factory=list)  # each (layers,); NaN where there is no value
    greatest: list[np.ndarray] = field(default_factory=list)

    def add(self, step: int, labels: list[str], values: list[Any]) -> None:
        """A line's values. Those of layers that the first line hadn't are left out."""
        self.labels = self.labels or labels[:MOST_LAYERS]
        given = dict(zip(labels, values, strict=False))
        found = [given.get(label) for label in self.labels]
        column = np.array([value if _is_number(value) else math.nan for value in found], dtype=float)
        if self.lines % self.width == 0:
            for ends in (self.first, self.last):
                ends.append(step)
            for part in (self.least, self.greatest):
                part.append(column)
        else:
            self.last[-1] = step
            self.least[-1] = np.fmin(self.least[-1], column)
            self.greatest[-1] = np.fmax(self.greatest[-1], column)
        self.lines += 1
        if len(self.first) > MOST_COLUMNS:
            self._halve()

    def _halve(self) -> None:
        self.width *= 2
        odd = [*self.last[1::2], *self.last[len(self.last) // 2 * 2 :]]
        self.first, self.last = self.first[::2], odd
        for part, choose in ((self.least, np.fmin), (self.greatest, np.fmax)):
            rest = part[len(part) // 2 * 2 :]
            part[:] = [choose(one, two) for one, two in zip(part[::2], part[1::2], strict=False)] + rest


@dataclass
class LayerMaps:
    """Heat maps by the order of STATISTICS, of those that a run has."""

    lines: int = 0
    maps: dict[str, HeatMap] = field(default_factory=dict)

    def add(self, line: dict[str, Any]) -> None:
        """A line of layers.jsonl; what isn't as the format says is left out."""
        self.lines += 1
        for statistic in STATISTICS:
            values = statistic.values(line)
            if not isinstance(values, list) or not any(map(_is_number, values)):
                continue
            names = line.get(statistic.names) if statistic.names else ["logits"]
            if isinstance(names, list) and len(names) == len(values) and all(isinstance(each, str) for each in names):
                found = self.maps.setdefault(statistic.title, HeatMap(statistic))
                found.add(line["step"], names, values)

    def found(self) -> list[HeatMap]:
        """Those that have something to show."""
        return [self.maps[each.title] for each in STATISTICS if each.title in self.maps]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < MOST

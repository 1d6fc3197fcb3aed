"""Spikes of a run as its page shows them: those that it recorded, and of rows without a verdict, by the same rule.

Runs of earlier versions have no `health/spike` in their rows. Theirs are found in one pass, in bounded memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainer.track.sinks.journal import Row
from trainer.track.spike_record import SpikeRecord, data_command
from trainer.track.spikes import SPIKE, WATCHED, SpikeRule

CHUNK = 1 << 13  # rows that are judged at once
MOST_AT_ONCE = 1 << 21  # values that are looked at together
MOST_SPIKES = 1000
NEARLY = 1e-6  # of a limit, by which numpy's may differ from the rule's own


class SpikeFinder:
    """Judges logged rows, one after another, until one has a verdict of its own."""

    def __init__(self, rule: SpikeRule | None = None, every: int = 1) -> None:
        self.rule = rule or SpikeRule()
        self._every = max(1, every)
        self._recorded = False
        self._rows: list[tuple[float, ...]] = []  # step, tokens, time, and what is watched; NaN where it isn't there
        self._past = {name: np.empty(0) for name in WATCHED}
        self._found: list[SpikeRecord] = []

    def add(self, row: Row) -> None:
        """The next row."""
        self._recorded = self._recorded or SPIKE in row
        if self._recorded:
            return
        values = [_number(row.get(name)) for name in WATCHED]
        if not all(map(math.isnan, values)):
            self._rows.append((row["step"], row["tokens"], row["time"], *values))
            if len(self._rows) >= CHUNK:
                self._judge()

    def spikes(self, run_dir: Path) -> list[SpikeRecord]:
        """What was found, by step; of very many, the greatest."""
        self._judge()
        command = {spike.step: data_command(run_dir, spike.step) for spike in self._found}
        found = [
            SpikeRecord(each.step, each.tokens, each.time, command[each.step], each.figures, each.limits)
            for each in self._found
        ]
        return sorted(found, key=lambda spike: spike.step)

    def _judge(self) -> None:
        if not self._rows:
            return
        rows = np.array(self._rows)
        self._rows = []
        limits: dict[int, dict[str, float | None]] = {}
        for column, name in enumerate(WATCHED, start=3):
            there = np.flatnonzero(np.isfinite(rows[:, column]))
            values, joins = rows[there, column], rows[there, 0] % self._every == 0
            joined = np.concatenate([self._past[name], values[joins]])
            before = len(self._past[name]) + np.cumsum(joins) - joins  # of `joined`, when a value is judged
            for place, limit in self._exceeded(values, joined, before):
                limits.setdefault(int(there[place]), {})[name] = limit
            self._past[name] = joined[-self.rule.window :]
        for place, exceeded in limits.items():
            step, tokens, time, *values = rows[place].tolist()
            figures = {name: value for name, value in zip(WATCHED, values, strict=True) if math.isfinite(value)}
            self._found.append(SpikeRecord(max(1, int(step)), int(tokens), time, "", {**figures}, exceeded))
        if len(self._found) > MOST_SPIKES:
            self._found = sorted(self._found, key=severity)[-MOST_SPIKES:]

    def _exceeded(self, values: np.ndarray, joined: np.ndarray, before: np.ndarray) -> Iterator[tuple[int, float]]:
        """Places of values that are spikes, with their limits. numpy sorts out most; the rule itself has the word."""
        window = self.rule.window
        candidates = np.ones(len(values), bool)
        full = np.flatnonzero(before >= window)
        if len(full):
            windows = np.lib.stride_tricks.sliding_window_view(joined, window)
            for some in np.array_split(full, -(-len(full) * window // MOST_AT_ONCE)):
                looked_at = windows[before[some] - window]
                limit = looked_at.mean(axis=1) + self.rule.sigma * looked_at.std(axis=1, ddof=1)
                candidates[some] = values[some] > limit - NEARLY * np.abs(limit)
        for place in np.flatnonzero(candidates):
            end = int(before[place])
            limit = self.rule.limit(joined[max(0, end - window) : end].tolist())
            if values[place] > limit:
                yield int(place), limit


def severity(spike: SpikeRecord) -> float:
    """How far a spike is above what it exceeds, relative; where that isn't known, its loss."""
    over = [
        (value - limit) / abs(limit) if limit else value
        for name, limit in spike.limits.items()
        if limit is not None and (value := spike.figures.get(name)) is not None
    ]
    return max(over, default=spike.figures.get("train/loss") or 0.0)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e300 else math.nan

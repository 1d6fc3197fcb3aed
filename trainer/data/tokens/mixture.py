"""The mixture of a run, laid out over its positions: weights, stages that follow each other, and caps on epochs.

A stretch with one mixture is a segment (order.py). A new one begins where a stage does, and where a set has been taken
as often as its cap allows: there it leaves the mixture, and the others share its part by their weights. All that
follows from how often each set was taken before, so that it can be laid out anew from any position, to the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from trainer.config import Data
from trainer.data.tokens.datasets import weights_of
from trainer.data.tokens.order import Rows, Segment, consumed, extend
from trainer.errors import ConfigError


@dataclass(frozen=True)
class WeightsFrom:
    """From position `first` on, sets have these weights; one without a weight, or with 0, rests."""

    first: int
    weights: dict[str, float]


@dataclass(frozen=True)
class Mixture:
    """Stages in order, the first at 0, and the most rows of sets that have a cap, by name."""

    stages: tuple[WeightsFrom, ...]
    most_rows: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def of_weights(weights: dict[str, float]) -> Mixture:
        """One that stays as it is."""
        return Mixture((WeightsFrom(0, weights),))

    def lay_out(self, segments: list[Segment], *, first: int, rows: Sequence[Rows]) -> tuple[list[Segment], int | None]:
        """The segments of a run that goes on at position `first`, and the position at which all sets reach their caps.

        `segments` are those that it had, of which those before `first` stay. None: some set has no cap to the end.
        """
        known, at = {each.name: each for each in rows}, first
        while True:
            stage = [stage for stage in self.stages if stage.first <= at][-1]
            following = next((other.first for other in self.stages if other.first > at), None)
            taken = consumed(segments, at)
            left = {
                name: self.most_rows[name] - taken.get(known[name].fingerprint, 0)
                for name, weight in stage.weights.items()
                if weight > 0 and name in self.most_rows
            }
            weights = {name: w for name, w in stage.weights.items() if w > 0 and left.get(name, 1) > 0}
            if not weights:
                return [segment for segment in segments if segment.first < at], at
            segments = extend(segments, first=at, rows=[known[name] for name in sorted(weights)], weights=weights)
            ends = [segments[-1].position_after(name, self.most_rows[name]) for name in weights if name in left]
            if following is not None:
                ends.append(following)
            if not ends:
                return segments, None
            at = min(ends)

    def check_lasts(self, segments: list[Segment], rows: Sequence[Rows], *, needed: int, sequence_length: int) -> None:
        """Refuses a run that needs more rows, `needed` in all, than the caps on epochs leave."""
        _, end = self.lay_out(segments, first=segments[-1].first, rows=rows)
        if end is not None and end < needed:
            caps = ", ".join(f"{name}: {most:,} rows" for name, most in self.most_rows.items())
            raise ConfigError(
                f"data.train: with its caps on epochs ({caps}) the mixture holds {end * sequence_length:,} "
                f"tokens, and the run takes {needed * sequence_length:,}: lower train.tokens or train.steps, or raise "
                "data.train.NAME.epochs."
            )


def mixture_in(data: Data, rows: Sequence[Rows]) -> Mixture:
    """The mixture that a data section describes, of datasets with these rows."""
    totals = {each.name: each.total for each in rows}
    stages = [WeightsFrom(0, weights_of(data))]
    for stage in sorted(data.stages.values(), key=lambda stage: stage.from_tokens):
        stages.append(WeightsFrom(math.ceil(stage.from_tokens / data.sequence_length), dict(stage.weights)))
    if data.temperature is not None:
        power = 1 / data.temperature
        stages = [WeightsFrom(s.first, {n: w * totals[n] ** power for n, w in s.weights.items()}) for s in stages]
    caps = {name: entry.epochs for name, entry in data.train.items() if entry.epochs is not None}
    return Mixture(tuple(stages), {name: max(1, round(epochs * totals[name])) for name, epochs in caps.items()})

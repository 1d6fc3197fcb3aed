"""Ramps: steps of fewer rows, or of shorter ones, up to some token of the run. What a step takes follows from where it
begins in the order of data, so that it is the same at any number of ranks and after any resume.

Positions count rows of data.sequence_length, whatever a step makes of them: a ramp of lengths cuts each row into equal
parts, so that a run trains on the same tokens in the same order with it and without.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from trainer.config.data import Data
from trainer.config.training import Train
from trainer.config.verbs import Pretrain
from trainer.errors import divisors, require

Bounds = tuple[tuple[int, int], ...]  # (position before which it holds, value), by position


@dataclass(frozen=True)
class StepSize:
    """What a step takes: `rows` of data.sequence_length, each cut into rows of `length` tokens; None: as it is."""

    rows: int
    length: int | None = None


@dataclass(frozen=True)
class Ramps:
    """Rows of a step, and the tokens that these are cut into, by the position that the step begins at."""

    batch_size: int
    batches: Bounds = ()
    lengths: Bounds = ()

    @staticmethod
    def of(train: Train, data: Data) -> Ramps:
        """The ramps of a configuration."""

        def bounds(stages: dict[int, int]) -> Bounds:
            return tuple((math.ceil(tokens / data.sequence_length), value) for tokens, value in sorted(stages.items()))

        return Ramps(
            train.batch_size,
            bounds({stage.until_tokens: stage.batch_size for stage in train.batch_ramp.values()}),
            bounds({stage.until_tokens: stage.sequence_length for stage in data.length_ramp.values()}),
        )

    @property
    def is_flat(self) -> bool:
        """Whether all steps are alike."""
        return not self.batches and not self.lengths

    def at(self, position: int) -> StepSize:
        """What a step takes that begins at a position."""
        batch_size = next((size for end, size in self.batches if position < end), self.batch_size)
        return StepSize(batch_size, next((length for end, length in self.lengths if position < end), None))

    def steps(self, position: int) -> Iterator[tuple[int, StepSize]]:
        """Where each step begins, and what it takes, from the one at `position` on; without end."""
        while True:
            size = self.at(position)
            yield position, size
            position += size.rows

    def stretches(self, *, step: int, position: int) -> Iterator[tuple[int, int, StepSize]]:
        """(step, position, size) of each stretch of equal steps in a run that goes on after `step` at `position`."""
        ends = sorted({end for end, _ in (*self.batches, *self.lengths)})
        known: StepSize | None = None
        while True:
            size = self.at(position)
            if size != known:
                yield step, position, size
            end, known = next((end for end in ends if end > position), None), size
            if end is None:
                return
            steps = -(-(end - position) // size.rows)
            step, position = step + steps, position + steps * size.rows


def batch_sizes(train: Train) -> list[int]:
    """All that a run's steps may have, the last one's first."""
    return [train.batch_size, *(stage.batch_size for stage in train.batch_ramp.values())]


def common_batch(train: Train) -> int:
    """The largest number of rows that divides every batch size: what micro-batches are cut from."""
    return math.gcd(*batch_sizes(train))


def check_ramps(config: Pretrain) -> None:
    """Refuses stages that lead nowhere, and rows that can't be cut."""
    train, data = config.train, config.data
    _check_ends("train.batch_ramp", {name: stage.until_tokens for name, stage in train.batch_ramp.items()})
    _check_ends("data.length_ramp", {name: stage.until_tokens for name, stage in data.length_ramp.items()})
    for name, stage in train.batch_ramp.items():
        require(
            0 < stage.batch_size <= train.batch_size,
            f"train.batch_ramp.{name}.batch_size={stage.batch_size}: a ramp leads up to train.batch_size="
            f"{train.batch_size}; give 1 to {train.batch_size}.",
        )
    length, parts = data.sequence_length, config.parallel.sequence
    for name, part in data.length_ramp.items():
        key = f"data.length_ramp.{name}.sequence_length={part.sequence_length}"
        fitting = [size for size in divisors(length) if size < length and size % parts == 0]
        shown = ", ".join(map(str, fitting[-6:])) or "another data.sequence_length"
        require(
            part.sequence_length <= length,
            f"{key}: above data.sequence_length={length}, which the ramp leads up to; use one of {shown}.",
        )
        require(
            part.sequence_length in fitting,
            f"{key}: rows of data.sequence_length={length} can't be cut into that"
            f"{f' and among parallel.sequence={parts} ranks' * (parts > 1)}; use one of {shown}.",
        )
    require(
        not data.length_ramp or data.packing == "stream",
        f"data.length_ramp with data.packing={data.packing}: whole documents would be cut; use data.packing=stream, or "
        "leave it out.",
    )
    require(
        not data.length_ramp or config.objective.name in ("causal", "masked"),
        f"data.length_ramp with objective={config.objective.name}: its rows are no stretches of text that could be "
        "cut; leave it out.",
    )


def _check_ends(key: str, ends: dict[str, int]) -> None:
    seen: dict[int, str] = {}
    for name, tokens in ends.items():
        require(tokens > 0, f"{key}.{name}.until_tokens is not set: say up to how many tokens of the run it holds.")
        other = seen.setdefault(tokens, name)
        require(other == name, f"{key}.{name}.until_tokens={tokens}: {key}.{other} ends there, too; choose another.")

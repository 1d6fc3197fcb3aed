"""What a run has consumed and will: stretches of one mixture and one batch size. From it any step's data follow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from trainer.config import Pretrain
from trainer.config.ramps import Ramps, StepSize
from trainer.data.tokens.datasets import with_length
from trainer.data.tokens.mixture import Mixture
from trainer.data.tokens.order import Rows, Segment
from trainer.errors import InputError
from trainer.machine.json_file import Count, Malformed, Positive, from_json, read_json

FILE = "history.json"


@dataclass(frozen=True)
class Stretch:
    """From after `step`, at `position`, every step takes `batch_size` sequences.

    Each was cut into rows of `length` tokens; None: they were trained on as they are.
    """

    step: Count
    position: Count
    batch_size: Positive
    length: Positive | None = None

    @property
    def size(self) -> StepSize:
        """What each of its steps takes."""
        return StepSize(self.batch_size, self.length)

    def to_json(self) -> dict[str, int]:
        """A JSON object; from_json's inverse. A length is in it where rows were cut."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Rewind:
    """After the bad step `from_step` the run went back to the checkpoint of `to_step`, and on at `position`."""

    from_step: Positive
    to_step: Count
    position: Count


@dataclass(frozen=True)
class LeftOutShard:
    """So many rows of a shard weren't trained on, between the positions `first` and `last`: it couldn't be had."""

    dataset: str
    file: str
    rows: Positive
    first: Count
    last: Count


@dataclass(frozen=True)
class History:
    """Segments of the mixture and stretches of equal steps, each in order; those that ramps lead to are among them.

    And what was bad: steps whose update was `skipped`, in order, and `rewinds`, as they happened. What a rewind leaves
    out of the data is a gap between the positions of two stretches. `left_out` are rows that couldn't be had.
    """

    segments: list[Segment]
    stretches: list[Stretch]
    skipped: list[Positive] = field(default_factory=list)
    rewinds: list[Rewind] = field(default_factory=list)
    left_out: list[LeftOutShard] = field(default_factory=list)

    def go_on(self, *, step: int, position: int, ramps: Ramps, rows: Sequence[Rows], mixture: Mixture) -> History:
        """The history of a run that goes on after `step` with this data and sizes of steps; equal ones add nothing."""
        segments, _ = mixture.lay_out(self.segments, first=position, rows=rows)
        stretches = self._with_steps(step=step, position=position, ramps=ramps)
        return replace(self, segments=segments, stretches=stretches)

    def with_skipped(self, steps: Iterable[int]) -> History:
        """The history of a run that skipped the updates of these steps as well."""
        return replace(self, skipped=sorted({*self.skipped, *steps}))

    def rewound(self, rewind: Rewind, ramps: Ramps) -> History:
        """The history of a run that goes on after a rewind."""
        return replace(
            self,
            stretches=self._with_steps(step=rewind.to_step, position=rewind.position, ramps=ramps),
            skipped=[step for step in self.skipped if step <= rewind.to_step],
            rewinds=[*self.rewinds, rewind],
        )

    def gaps_before(self, step: int) -> int:
        """Positions that rewinds have left out before optimiser step `step`."""
        there = [stretch for stretch in self.stretches if stretch.step < step]
        return sum(
            after.position - before.position - (after.step - before.step) * before.batch_size
            for before, after in pairwise(there)
        )

    def trained_after(self, step: int) -> int:
        """How many sequences a run has taken by optimiser step `step`, without what rewinds left out."""
        return self.position_after(step) - self.gaps_before(step) if step > 0 else 0

    def at_steps(self, *, step: int, ramps: Ramps) -> History:
        """The history of a run that goes on after `step` with other sizes of steps, and the same data."""
        return replace(self, stretches=self._with_steps(step=step, position=self.position_after(step), ramps=ramps))

    def _with_steps(self, *, step: int, position: int, ramps: Ramps) -> list[Stretch]:
        earlier = [stretch for stretch in self.stretches if stretch.step < step]
        first, *following = _laid_out(ramps, step=step, position=position)
        if earlier and earlier[-1].size == first.size:
            last = earlier[-1]
            if last.position + (step - last.step) * last.batch_size == position:
                return [*earlier, *following]
        return [*earlier, first, *following]

    def position_after(self, step: int) -> int:
        """How many sequences have been consumed when optimiser step `step` is taken; 0 before the first."""
        return self.positions_of(step)[1] if step > 0 else 0

    def total_steps(self, *, tokens: int, sequence_length: int) -> int:
        """The step at which `tokens` are reached."""
        ends = [*(self.trained_after(after.step) * sequence_length for after in self.stretches[1:]), math.inf]
        last = next(stretch for stretch, end in zip(self.stretches, ends, strict=True) if tokens <= end)
        left = tokens - (last.position - self.gaps_before(last.step + 1)) * sequence_length
        return last.step + math.ceil(max(0, left) / (last.batch_size * sequence_length))

    def positions_of(self, step: int) -> tuple[int, int]:
        """[start, stop): the positions that optimiser step `step` (from 1) trained on."""
        stretch = self.stretch_of(step)
        start = stretch.position + (step - 1 - stretch.step) * stretch.batch_size
        return start, start + stretch.batch_size

    def stretch_of(self, step: int) -> Stretch:
        """The stretch that an optimiser step (from 1) is in."""
        before = [stretch for stretch in self.stretches if stretch.step < step]
        if not before:
            raise InputError(f"step={step}: steps are counted from 1.")
        return before[-1]

    def step_of(self, position: int) -> int | None:
        """The optimiser step (from 1) that trained on a position; None of one that a rewind left out."""
        number = sum(stretch.position <= position for stretch in self.stretches) - 1
        stretch, following = self.stretches[number], self.stretches[number + 1 : number + 2]
        step = stretch.step + 1 + (position - stretch.position) // stretch.batch_size
        return None if following and step > following[0].step else step

    def ramp_in_words(self, step: int, sequence_length: int) -> str | None:
        """The stretches after `step`, where ramps lead to others; None where all steps to come are alike."""
        coming = [stretch for stretch in self.stretches if stretch.step >= step]
        if len(coming) < 2 and not any(stretch.length for stretch in coming):
            return None
        first = self.stretch_of(step + 1)
        told = []
        for stretch in dict.fromkeys((first, *coming)):
            length = stretch.length or sequence_length
            rows = stretch.batch_size * sequence_length // length
            told.append(f"from step {max(stretch.step, step) + 1}: {rows:,} rows of {length:,}")
        return f"ramp: {'; '.join(told)}"

    def to_json(self) -> dict[str, Any]:
        """A JSON object; from_json's inverse. What was bad is in it where there is some."""
        record: dict[str, Any] = {
            "segments": [segment.to_json() for segment in self.segments],
            "stretches": [stretch.to_json() for stretch in self.stretches],
        }
        if self.skipped:
            record["skipped"] = self.skipped
        if self.rewinds:
            record["rewinds"] = [asdict(rewind) for rewind in self.rewinds]
        if self.left_out:
            record["left_out"] = [asdict(shard) for shard in self.left_out]
        return record

    @staticmethod
    def from_json(record: dict[str, Any]) -> History:
        """to_json's inverse. Malformed where that can't have come from it: stretches and segments begin at 0."""
        history = from_json(History, record)
        firsts = [segment.first for segment in history.segments]
        begins = [(stretch.step, stretch.position) for stretch in history.stretches]
        if firsts[:1] != [0] or any(not earlier < later for earlier, later in pairwise(firsts)):
            raise Malformed("segments don't follow each other from position 0")
        if begins[:1] != [(0, 0)] or any(not before[0] < after[0] for before, after in pairwise(begins)):
            raise Malformed("stretches don't follow each other from step 0")
        if any(not earlier < later for earlier, later in pairwise(history.skipped)):
            raise Malformed("skipped steps don't follow each other")
        if any(rewind.to_step >= rewind.from_step for rewind in history.rewinds):
            raise Malformed("a rewind doesn't lead back")
        for segment in history.segments:
            segment.check()
        return history


def _laid_out(ramps: Ramps, *, step: int, position: int) -> list[Stretch]:
    """The stretches of a run that goes on after `step`, those to come among them."""
    found = ramps.stretches(step=step, position=position)
    return [Stretch(step, position, size.rows, size.length) for step, position, size in found]


def read_history(run_dir: Path) -> History | None:
    """history.json of a run directory; None before the run has begun. InputError where it can't be read."""
    path = run_dir / FILE
    try:
        return History.from_json(read_json(path))
    except FileNotFoundError:
        return None
    except Malformed as error:
        raise InputError(f"{path}: {error}; the next start of the run writes it anew.") from error


def total_steps_of(config: Pretrain, history: History | None = None) -> int:
    """Optimiser steps of the whole run; by tokens, they follow from what `history` has consumed of them."""
    train = config.train
    if train.steps is not None:
        return train.steps
    assert train.tokens is not None
    history = history or History([], _laid_out(Ramps.of(train, config.data), step=0, position=0))
    return history.total_steps(tokens=train.tokens, sequence_length=config.data.sequence_length)


def total_steps_in(run_dir: Path, config: Pretrain, *, step: int) -> int:
    """Optimiser steps of the run in `run_dir` if it goes on after `step` as `config` says; or of a new one."""
    config, history = with_length(config), read_history(run_dir)
    if history is None or not history.stretches or step == 0:
        return total_steps_of(config)
    return total_steps_of(config, history.at_steps(step=step, ramps=Ramps.of(config.train, config.data)))

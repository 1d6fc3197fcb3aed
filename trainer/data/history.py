"""What a run has consumed and will: stretches of one mixture and one batch size. From it any step's data follow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from trainer.data.order import Rows, Segment, extend
from trainer.errors import InputError
from trainer.json_file import Count, Malformed, Positive, from_json


@dataclass(frozen=True)
class Stretch:
    """From after `step`, at `position`, every step takes `batch_size` sequences."""

    step: Count
    position: Count
    batch_size: Positive


@dataclass(frozen=True)
class History:
    """Segments of the mixture and stretches of the batch size, each in order."""

    segments: list[Segment]
    stretches: list[Stretch]

    def go_on(
        self, *, step: int, position: int, batch_size: int, rows: Iterable[Rows], weights: dict[str, float]
    ) -> History:
        """The history of a run that goes on after `step` with this data and batch size; equal ones add nothing."""
        segments = extend(self.segments, first=position, rows=rows, weights=weights)
        kept = [stretch for stretch in self.stretches if stretch.step < step]
        if not kept or kept[-1].batch_size != batch_size:
            kept = [*kept, Stretch(step, position, batch_size)]
        return History(segments, kept)

    def positions_of(self, step: int) -> tuple[int, int]:
        """[start, stop): the positions that optimiser step `step` (from 1) trained on."""
        before = [stretch for stretch in self.stretches if stretch.step < step]
        if not before:
            raise InputError(f"step={step}: steps are counted from 1.")
        stretch = before[-1]
        start = stretch.position + (step - 1 - stretch.step) * stretch.batch_size
        return start, start + stretch.batch_size

    def to_json(self) -> dict[str, Any]:
        """A JSON object; from_json's inverse."""
        return {
            "segments": [segment.to_json() for segment in self.segments],
            "stretches": [asdict(stretch) for stretch in self.stretches],
        }

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
        for segment in history.segments:
            segment.check()
        return history

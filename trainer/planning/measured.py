"""What a run of one's own took, beside what was predicted of it: `plan.calibrate`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RunMeasure:
    """Factors on what is predicted: 1 where nothing was measured."""

    source: str = ""  # the run, in words; empty: none
    time: float = 1.0  # of every part of a step
    memory: float = 1.0  # of the tensors on a GPU
    libraries: int | None = None  # bytes beside the tensors: a CPU's, that Python and torch have resident


NOTHING_MEASURED = RunMeasure()

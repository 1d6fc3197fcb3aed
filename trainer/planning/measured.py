"""What a run of one's own took, beside what was predicted of it: `plan.calibrate`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.planning.memory import Memory
    from trainer.planning.time import StepTime


@dataclass(frozen=True)
class Correction:
    """Factors on what is predicted: 1 where nothing was measured."""

    source: str = ""  # the run, in words; empty: none
    time: float = 1.0  # of every part of a step
    memory: float = 1.0  # of the tensors on a GPU
    libraries: int | None = None  # bytes beside the tensors: a CPU's, that Python and torch have resident

    def of_time(self, time: StepTime | None) -> StepTime | None:
        """A predicted step, as the run says."""
        if time is None:
            return None
        parts = ("matmul", "memory", "optimizer", "tensor", "data", "hidden")
        return replace(time, **{part: getattr(time, part) * self.time for part in parts})

    def of_memory(self, memory: Memory) -> Memory:
        """A predicted peak, as the run says."""
        return replace(
            memory,
            parts={name: round(size * self.memory) for name, size in memory.parts.items()},
            moments={name: round(size * self.memory) for name, size in memory.moments.items()},
            runtime=memory.runtime if self.libraries is None else self.libraries,
        )


NOTHING_MEASURED = Correction()

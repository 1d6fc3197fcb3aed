"""When checkpoints are due: every so many steps, or as often as loses least."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from trainer.checkpoint.interval import FIRST, Decision, decide_interval, decided, record
from trainer.config import AUTO, Checkpoint
from trainer.ranks.mesh import Mesh


class Saving(Protocol):
    """Every rank has the same."""

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint follows this step."""

    def saved(self, step: int, stall_s: float) -> None:
        """A checkpoint has begun after this step, for which training was held up so long. Every rank calls it."""


class EverySteps:
    """Every `every` steps; 0: never."""

    def __init__(self, every: int) -> None:
        self._every = every

    def is_due(self, step: int) -> bool:
        """Whether it divides the step."""
        return self._every > 0 and step % self._every == 0

    def saved(self, step: int, stall_s: float) -> None:
        """Changes nothing."""


class AutoInterval:
    """After each checkpoint rank 0 decides when the next is due, from what that one and the steps before it took."""

    def __init__(self, mesh: Mesh, run_dir: Path, step: int, mtbf_s: float, say: Callable[[str], None]) -> None:
        self._mesh, self._run_dir, self._mtbf_s, self._say = mesh, run_dir, mtbf_s, say
        told = mesh.main_finds(lambda: [asdict(decision) for decision in decided(run_dir, step)])
        self._decisions = [Decision(**one) for one in told]
        self._saved_at = step
        self._began: tuple[int, float] | None = (
            None  # a step since which nothing but training went on, and when it ended
        )

    @property
    def every(self) -> int:
        """Steps between checkpoints at the moment."""
        return self._decisions[-1].every if self._decisions else FIRST

    def is_due(self, step: int) -> bool:
        """Whether so many steps were taken since the last."""
        if self._began is None:
            self._began = step, time.perf_counter()  # the first step of a start may have compiled
        return step - self._saved_at >= self.every

    def saved(self, step: int, stall_s: float) -> None:
        """Decides on all ranks what rank 0 makes of it."""
        self._saved_at = step
        began, self._began = self._began, (step, time.perf_counter())
        if began is None or step <= began[0]:
            return
        step_s = (time.perf_counter() - began[1] - stall_s) / (step - began[0])
        found = self._mesh.main_finds(lambda: self._decide(step, stall_s, max(step_s, 1e-6)))
        if found is not None:
            self._decisions.append(Decision(**found))

    def _decide(self, step: int, stall_s: float, step_s: float) -> dict[str, Any] | None:
        before = self._decisions[-1].every if self._decisions else None
        found = decide_interval(step, stall_s=stall_s, step_s=step_s, mtbf_s=self._mtbf_s, before=before)
        if found.every == before:
            return None
        record(self._run_dir, [*self._decisions, found])
        self._say(found.in_words())
        return asdict(found)


def saving_of(
    checkpoint: Checkpoint, mesh: Mesh, run_dir: Path, step: int, say: Callable[[str], None]
) -> EverySteps | AutoInterval:
    """What checkpoint.every asks for, of a run that begins after `step`."""
    if checkpoint.every != AUTO:
        return EverySteps(int(checkpoint.every))
    nodes = max(1, mesh.world_size // int(os.environ.get("LOCAL_WORLD_SIZE", mesh.world_size)))
    return AutoInterval(mesh, run_dir, step, checkpoint.mtbf_hours * 3600 / nodes, say)

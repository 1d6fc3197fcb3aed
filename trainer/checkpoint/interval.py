"""The interval between checkpoints that loses least: `checkpoint.every=auto`. docs/SCALE.md has the arithmetic.

What was decided stands in RUN/checkpoint_interval.json, so that a run which goes on saves at the steps it would have.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from trainer.machine.durable import write_json
from trainer.machine.json_file import Malformed, Positive, Within, from_json, read_json

FILE = "checkpoint_interval.json"
FIRST = 20  # steps to the first checkpoint, which tells what one takes
STEADY = 1.25  # a new interval that is within this factor of the old isn't taken: what is measured scatters

Seconds = Annotated[float, Within(0, 1e12)]


@dataclass(frozen=True)
class Decision:
    """From the checkpoint at `step` on, one every `every` steps; with what that follows from."""

    step: int
    every: Positive
    stall_s: Seconds
    step_s: Seconds
    mtbf_s: Seconds  # of all nodes together

    def in_words(self) -> str:
        """A line."""
        seconds = self.every * self.step_s
        span = f"{seconds / 60:.3g} min" if seconds >= 60 else f"{seconds:.3g} s"
        return (
            f"checkpoint.every=auto: {self.every} steps ({span}) from step {self.step} on: a save holds training up "
            f"for {self.stall_s:.3g} s, a step is {self.step_s:.3g} s, a failure comes every {self.mtbf_s / 3600:.3g} h"
        )


def daly_interval(stall_s: float, mtbf_s: float) -> float:
    """Seconds of work between the end of a checkpoint and the next that lose least.

    J. T. Daly, A higher order estimate of the optimum checkpoint interval for restart dumps, Future Generation Computer
    Systems 22 (2006), equation 37; Young's sqrt(2·stall·mtbf) is its first term.
    """
    if stall_s >= 2 * mtbf_s:
        return mtbf_s
    half = stall_s / (2 * mtbf_s)
    return math.sqrt(2 * stall_s * mtbf_s) * (1 + math.sqrt(half) / 3 + half / 9) - stall_s


def decide_interval(step: int, *, stall_s: float, step_s: float, mtbf_s: float, before: int | None) -> Decision:
    """The interval from a checkpoint on; the one `before` it stays unless another is clearly better."""
    every = max(1, round(daly_interval(stall_s, mtbf_s) / step_s))
    if before is not None and before / STEADY <= every <= before * STEADY:
        every = before
    return Decision(step, every, stall_s, step_s, mtbf_s)


def decided(run_dir: Path, step: int) -> list[Decision]:
    """What was decided up to a step, in order; InputError if the file isn't of this kind."""
    path = run_dir / FILE
    try:
        told = read_json(path)
    except FileNotFoundError:
        return []
    try:
        found = [from_json(Decision, one) for one in told["decisions"]]
    except (Malformed, LookupError, TypeError) as error:
        raise Malformed(f"{path}: {error}; remove it, and the interval is measured anew.") from None
    return [decision for decision in found if decision.step <= step]


def record(run_dir: Path, decisions: list[Decision]) -> None:
    """Writes all that was decided."""
    write_json(run_dir / FILE, {"version": 1, "decisions": [asdict(decision) for decision in decisions]})

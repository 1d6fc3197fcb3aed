"""Learning rate as a pure function of the step, so that a resume has nothing to restore."""

from __future__ import annotations

import math
from collections.abc import Callable

from trainer.config import Schedule


def scheduled_rate(
    schedule: Schedule, *, peak: float, step: int, total_steps: int, pace: Callable[[int], int] | None = None
) -> float:
    """Learning rate of optimiser step `step` (from 1) of `total_steps`.

    Linear warm-up, then cosine (Loshchilov and Hutter, 2017), linear, constant, or WSD: constant and a last
    linear decay (Hu et al., "MiniCPM", 2024). All but constant end at `min_ratio` of the peak. The warm-up counts
    steps; the decay counts what `pace` has after a step, such as sequences, so that it goes on where it was when the
    batch size changes; by default steps, too.
    """
    if step <= schedule.warmup_steps:
        return peak * step / schedule.warmup_steps
    return peak * _share(schedule, step, total_steps, pace or (lambda step: step))


def _share(schedule: Schedule, step: int, total_steps: int, pace: Callable[[int], int]) -> float:
    low = schedule.min_ratio
    warm, now, end = pace(schedule.warmup_steps), pace(step), pace(total_steps)
    progress = min(1.0, (now - warm) / max(1, end - warm))
    match schedule.name:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - (1.0 - low) * progress
        case "cosine":
            return low + (1.0 - low) * 0.5 * (1.0 + math.cos(math.pi * progress))
        case "wsd":
            decay_steps = max(1, round(schedule.decay_fraction * total_steps))
            decay = end - pace(max(0, total_steps - decay_steps))
            return 1.0 - (1.0 - low) * min(1.0, max(0.0, 1.0 - (end - now) / decay))
    raise AssertionError(f"schedule.name={schedule.name} passed the checks")

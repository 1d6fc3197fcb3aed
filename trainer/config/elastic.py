"""Runs whose number of ranks changes: the range, and batches that the number doesn't divide.

A global batch is cut into chunks, micro-batches that are the same at any number of ranks. W ranks take them in rounds
of W; where the last round isn't full, its empty slots are micro-batches whose targets are all ignored: they add nothing
to the loss, the gradient or the count of targets, and their share of the work is wasted.
"""

from __future__ import annotations

from trainer.config import Launch
from trainer.errors import ConfigError


def range_of(launch: Launch) -> tuple[int, int] | None:
    """Fewest and most ranks of an elastic run; None for a run of fixed size."""
    if launch.name != "ray" or isinstance(launch.workers, int | None):
        return None
    least, most = workers_of(launch)
    return least, most


def workers_of(launch: Launch) -> tuple[int, int]:
    """launch.workers as (least, most), the same twice for a fixed size. ConfigError if it is neither."""
    workers = launch.workers
    pair = workers if isinstance(workers, list) else [workers, workers]
    whole = len(pair) == 2 and all(type(count) is int and count >= 1 for count in pair)
    if not whole or pair[0] > pair[1]:
        wrong = "is not set" if workers is None else f"={workers}"
        raise ConfigError(
            f"launch.workers{' ' * (workers is None)}{wrong}: give a number of ranks, as launch.workers=8, or the "
            "fewest and the most of an elastic run, as launch.workers=[2,8]."
        )
    return pair[0], pair[1]

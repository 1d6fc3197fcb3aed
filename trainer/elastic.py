"""Runs whose number of ranks changes: the range, and batches that the number doesn't divide.

A global batch is cut into chunks, micro-batches that are the same at any number of ranks. W ranks take them in rounds
of W; where the last round isn't full, its empty slots are micro-batches whose targets are all ignored: they add nothing
to the loss, the gradient or the count of targets, and their share of the work is wasted.
"""

from __future__ import annotations

from trainer.config import Launch, Train
from trainer.data.order import rounds
from trainer.errors import ConfigError
from trainer.refusal import divisors, require

DEFAULT_MICRO_BATCH = 8  # sequences


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


def micro_batch_in(train: Train, most: int) -> int:
    """train.micro_batch_size, or the largest up to DEFAULT_MICRO_BATCH that leaves each of `most` ranks a chunk.

    It follows from the range, not from how many ranks there are at the moment.
    """
    if isinstance(train.micro_batch_size, int):
        return train.micro_batch_size
    fitting = [size for size in divisors(train.batch_size) if size <= DEFAULT_MICRO_BATCH]
    return max((size for size in fitting if train.batch_size // size >= most), default=1)


def check_elastic_batch(train: Train, most: int) -> None:
    """Refuses a batch that can't be cut into whole micro-batches, or into fewer than there may be ranks."""
    micro = micro_batch_in(train, most)
    require(
        train.batch_size % micro == 0,
        f"train.batch_size={train.batch_size} can't be cut into micro-batches of {micro}; use train.micro_batch_size="
        f"{' or '.join(map(str, divisors(train.batch_size)))}.",
    )
    chunks = train.batch_size // micro
    require(
        most <= chunks,
        f"launch.workers: of {most} ranks, {most - chunks} would have nothing to do, for train.batch_size="
        f"{train.batch_size} is {chunks} micro-batches of {micro}; use at most {chunks}, a larger train.batch_size"
        f"{' or a smaller train.micro_batch_size' * (micro > 1)}.",
    )


def padding_share(chunks: int, ranks: int) -> float:
    """The share of a step's micro-batches that are empty: 0 where `ranks` divides `chunks`."""
    return 1 - chunks / (rounds(chunks, ranks) * ranks)

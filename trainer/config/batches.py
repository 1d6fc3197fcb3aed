"""How a global batch is cut into micro-batches, and how many steps a run takes."""

from __future__ import annotations

from trainer.config import Pretrain, Train
from trainer.config.launchers import range_of
from trainer.config.ramps import common_batch
from trainer.errors import divisors


def rounds(chunks: int, world_size: int) -> int:
    """Micro-steps in which `world_size` data ranks take a global batch of `chunks`; the last may not be full."""
    return -(-chunks // world_size)


def chunk_of(micro_step: int, *, rank: int, world_size: int) -> int:
    """Chunk of the global batch that data rank `rank` of `world_size` takes at `micro_step`: m·W + r."""
    return micro_step * world_size + rank


DEFAULT_MICRO_BATCH = 8  # sequences
GPU_TOKENS = 32_768  # of a default micro-batch on a GPU, where they fit: fewer leave it idle between kernels


def micro_batch_in(train: Train, most: int) -> int:
    """train.micro_batch_size, or the largest up to DEFAULT_MICRO_BATCH that leaves each of `most` ranks a chunk.

    It follows from the range, not from how many ranks there are at the moment.
    """
    if isinstance(train.micro_batch_size, int):
        return train.micro_batch_size
    smallest = common_batch(train)
    fitting = [size for size in divisors(smallest) if size <= DEFAULT_MICRO_BATCH]
    return max((size for size in fitting if smallest // size >= most), default=1)


def padding_share(chunks: int, ranks: int) -> float:
    """The share of a step's micro-batches that are empty: 0 where `ranks` divides `chunks`."""
    return 1 - chunks / (rounds(chunks, ranks) * ranks)


def data_ranks_of(config: Pretrain, world_size: int) -> int:
    """Ranks that take different data: the others share layers or sequences with one of these."""
    return world_size // (config.parallel.tensor * config.parallel.sequence)


def micro_batch_of(train: Train, ranks: int, most: int = DEFAULT_MICRO_BATCH) -> int:
    """train.micro_batch_size, or by default the largest up to `most` that divides a rank's share.

    The default stands for AUTO, too, until the sizes have been measured.
    """
    if isinstance(train.micro_batch_size, int):
        return train.micro_batch_size
    rows = common_batch(train)
    if rows % ranks:
        return 1  # no size will do: check_batch says so
    share = rows // ranks
    return max([size for size in divisors(share) if size <= most], default=1)


def settle_micro_batch(config: Pretrain, world_size: int) -> int:
    """The micro-batch of a run on `world_size` ranks; of an elastic one, the same at any number of them."""
    sizes = range_of(config.launch)
    if sizes is not None:
        return micro_batch_in(config.train, most=sizes[1])
    return micro_batch_of(config.train, data_ranks_of(config, world_size))


def accumulation_steps(config: Pretrain, data_ranks: int) -> int:
    """Micro-steps per optimiser step, of a ramp the most: the rounds in which `data_ranks` take all chunks."""
    return rounds(config.train.batch_size // micro_batch_of(config.train, data_ranks), data_ranks)


def padding_of(config: Pretrain, data_ranks: int) -> float:
    """The share of a step's micro-batches that are empty, since the ranks don't divide the chunks of an elastic run."""
    return padding_share(config.train.batch_size // micro_batch_of(config.train, data_ranks), data_ranks)

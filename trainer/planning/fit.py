"""Whether a run fits into its devices, and what would make it fit."""

from __future__ import annotations

from collections.abc import Iterator

from trainer.config import Pretrain
from trainer.config.batches import GPU_TOKENS, data_ranks_of, micro_batch_of, settle_micro_batch
from trainer.config.launchers import range_of
from trainer.config.plain_values import with_values
from trainer.errors import ConfigError, divisors
from trainer.planning.layout import layout_of
from trainer.planning.memory import MARGIN, Memory, memory_of
from trainer.rules.pretrain import check_pretrain

GB = 1e9
BIGGEST = 3  # parts that a refusal names


def memory_problem(config: Pretrain, world_size: int, *, memory: int, cuda: bool, device: str) -> str | None:
    """What is wrong and how to mend it, if a rank needs more than `memory` bytes by more than a prediction's error."""
    needed = memory_of(layout_of(config, world_size, cuda=cuda))
    if needed.total <= memory * (1 + MARGIN):
        return None
    parts = sorted(needed.parts.items(), key=lambda item: -item[1])[:BIGGEST]
    largest = ", ".join(f"{name} {size / GB:.3g} GB" for name, size in parts)
    return (
        f"each of {world_size} rank{'s' * (world_size > 1)} needs {needed.total / GB:.3g} GB ({largest}); {device} has "
        f"{memory / GB:.3g} GB: {_mend(config, world_size, memory, cuda)}. `banyan plan` shows more; "
        "launch.check_memory=false starts it nevertheless."
    )


def default_micro_batch(config: Pretrain, world_size: int, *, cuda: bool, memory: int | None) -> int:
    """The micro-batch of a run that gives none: on a GPU by tokens, the most that divide a rank's share and fit.

    `memory` is a device's, in bytes. Where that, or what the model takes, isn't known, it is by sequences as on a CPU.
    """
    known = config.model.path is None and config.model.kind == "decoder" and config.adapt.name == "full"
    by_tokens = cuda and known and config.objective.name == "causal" and range_of(config.launch) is None
    if memory is None or config.train.micro_batch_size is not None or not by_tokens:
        return settle_micro_batch(config, world_size)
    most = GPU_TOKENS * config.parallel.sequence // config.data.sequence_length
    size = micro_batch_of(config.train, data_ranks_of(config, world_size), max(1, most))
    for smaller in divisors(size)[::-1]:
        tried = with_values(config, {"train.micro_batch_size": smaller})
        if memory_of(layout_of(tried, world_size, cuda=True)).total <= memory * (1 - MARGIN):
            return smaller
    return 1


def _mend(config: Pretrain, world_size: int, memory: int, cuda: bool) -> str:
    for words, changed in _changes(config, world_size, cuda=cuda):
        try:
            check_pretrain(changed, world_size)
        except ConfigError:
            continue
        needed: Memory = memory_of(layout_of(changed, world_size, cuda=cuda))
        if needed.total <= memory:
            return f"use {words} ({needed.total / GB:.3g} GB)"
    return "no stage, checkpointing or micro-batch makes it fit: take more or larger devices, or a smaller model"


def _changes(config: Pretrain, world_size: int, *, cuda: bool) -> Iterator[tuple[str, Pretrain]]:
    """What may be changed without changing what is learnt: first what costs the least time."""
    micro = layout_of(config, world_size).micro_batch
    sizes = [size for size in divisors(micro) if size < micro][::-1]
    stages = range(config.parallel.zero_stage, 4)
    modes = ["none", "selective", "full"]
    modes = modes[modes.index(config.train.activation_checkpointing) :]
    offloads = (config.parallel.offload, "optimizer", "all") if cuda else (config.parallel.offload,)
    for offload in dict.fromkeys(offloads):
        for mode in modes:
            for size in [micro, *sizes]:
                for stage in stages:
                    values = {
                        "parallel.zero_stage": stage,
                        "parallel.offload": offload,
                        "train.activation_checkpointing": mode,
                        "train.micro_batch_size": size,
                    }
                    changed = with_values(config, values)
                    words = {
                        f"parallel.zero_stage={stage}": stage != config.parallel.zero_stage,
                        f"train.micro_batch_size={size}": size != micro,
                        f"train.activation_checkpointing={mode}": mode != config.train.activation_checkpointing,
                        f"parallel.offload={offload}": offload != config.parallel.offload,
                    }
                    yield " ".join(word for word, new in words.items() if new), changed

"""The best layout of a run on a cluster: stages, degrees, checkpointing and micro-batches tried, what fits ranked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from trainer.config.plain_values import with_values
from trainer.config.verbs import Plan
from trainer.errors import ConfigError, divisors
from trainer.planning.cluster import Cluster
from trainer.planning.layout import Layout, layout_of
from trainer.planning.memory import Memory, memory_of
from trainer.planning.time import StepTime, step_time
from trainer.rules.pretrain import check_pretrain

CHECKPOINTING = ("none", "selective", "full")
LARGEST_MICRO_BATCH = 64  # sequences


@dataclass(frozen=True)
class Candidate:
    """A layout, with what it takes. `time` is None where the device's peak isn't known."""

    config: Plan
    layout: Layout
    memory: Memory
    time: StepTime | None

    @property
    def overrides(self) -> str:
        """What to type for it."""
        parallel, train = self.config.parallel, self.config.train
        words = [f"parallel.zero_stage={parallel.zero_stage}"]
        words += [f"parallel.{key}={value}" for key in ("tensor", "sequence") if (value := getattr(parallel, key)) > 1]
        words.append(f"train.micro_batch_size={self.layout.micro_batch}")
        if train.activation_checkpointing != "none":
            words.append(f"train.activation_checkpointing={train.activation_checkpointing}")
        return " ".join(words)


@dataclass(frozen=True)
class Ranking:
    """Candidates that fit, fastest first; how many didn't, and how many the checks refuse."""

    fitting: list[Candidate]
    too_large: int
    refused: Counter[str]  # by the first words of why


def rank(config: Plan, cluster: Cluster) -> Ranking:
    """Every layout of `config` on a cluster; of those that are equally fast, what needs the least memory first."""
    fitting, too_large, refused = [], 0, Counter[str]()
    for changed in _variants(config, cluster):
        try:
            check_pretrain(changed, cluster.devices)
        except ConfigError as error:
            refused[str(error).split(":")[0]] += 1
            continue
        candidate = assess(changed, cluster)
        if candidate.memory.total > cluster.device.memory:
            too_large += 1
        else:
            fitting.append(candidate)
    fitting.sort(key=lambda one: (one.time.total if one.time else 0.0, one.memory.total))
    return Ranking(fitting, too_large, refused)


def assess(config: Plan, cluster: Cluster) -> Candidate:
    """What a configuration that passed the checks takes."""
    layout = layout_of(config, cluster.devices, cuda=cluster.device.cuda)
    memory, time = memory_of(layout), step_time(layout, cluster, config.plan)
    time = time.scaled(cluster.measured.time) if time is not None else None
    return Candidate(config, layout, memory.corrected(cluster.measured), time)


def _variants(config: Plan, cluster: Cluster) -> Iterator[Plan]:
    """The configuration with each combination of what a layout may choose without changing what is learnt."""
    within = divisors(min(cluster.devices, cluster.per_node))
    degrees = [(tensor, 1) for tensor in within] + [(1, sequence) for sequence in within[1:]]
    for tensor, sequence in degrees:
        share, left = divmod(config.train.batch_size * tensor * sequence, cluster.devices)
        if left or share == 0:
            continue
        for micro in (size for size in divisors(share) if size <= LARGEST_MICRO_BATCH):
            for stage in range(4):
                for checkpointing in CHECKPOINTING:
                    values = {
                        "parallel.zero_stage": stage,
                        "parallel.tensor": tensor,
                        "parallel.sequence": sequence,
                        "train.micro_batch_size": micro,
                        "train.activation_checkpointing": checkpointing,
                    }
                    yield with_values(config, values)

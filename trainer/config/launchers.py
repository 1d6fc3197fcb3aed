"""What every room may know of a launcher: its keys of `launch`, and how many ranks they ask for. A row each.

What starts the ranks is launch/launchers.py's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trainer.config.launch import Launch
from trainer.errors import ConfigError

SHARED_KEYS = ("name", "threads", "device", "check_memory")


@dataclass(frozen=True)
class LauncherFacts:
    """`keys` are those of `launch` that it knows besides SHARED_KEYS; `ranks` the fewest and the most of a job.

    `elastic` says whether a job may change its number of ranks as it runs, within that range. `here` says whether its
    ranks run on this machine, so that its memory can be looked at.
    """

    keys: tuple[str, ...]
    ranks: Callable[[Launch], tuple[int, int]]
    elastic: Callable[[Launch], bool] = lambda launch: False
    here: bool = False


def _local_ranks(launch: Launch) -> tuple[int, int]:
    ranks = launch.processes or 1
    return ranks, ranks


def _slurm_ranks(launch: Launch) -> tuple[int, int]:
    per_node = launch.gpus_per_node or launch.tasks_per_node or 1
    return (launch.min_nodes if launch.elastic else launch.nodes) * per_node, launch.nodes * per_node


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


LAUNCHERS: dict[str, LauncherFacts] = {
    "local": LauncherFacts(keys=("processes",), ranks=_local_ranks, here=True),
    "slurm": LauncherFacts(
        keys=(
            *("nodes", "gpus_per_node", "tasks_per_node", "cpus_per_task", "time", "partition", "account", "sbatch"),
            *("setup", "grace_s", "max_restarts", "chain", "elastic", "min_nodes", "spares", "dry_run"),
        ),
        ranks=_slurm_ranks,
    ),
    "ray": LauncherFacts(
        keys=("workers", "cpus_per_worker", "gpus_per_worker", "max_failures", "resize_check_s", "start_timeout_s"),
        ranks=workers_of,
        elastic=lambda launch: not isinstance(launch.workers, int | None),
    ),
}


def range_of(launch: Launch) -> tuple[int, int] | None:
    """Fewest and most ranks of an elastic run; None for a run of fixed size.

    The global batch is cut into chunks, micro-batches that are the same at any number of ranks. W ranks take them in
    rounds of W; where the last round isn't full, its empty slots are micro-batches whose targets are all ignored: they
    add nothing to the loss, the gradient or the count of targets, and their share of the work is wasted.
    """
    facts = LAUNCHERS[launch.name]
    return facts.ranks(launch) if facts.elastic(launch) else None

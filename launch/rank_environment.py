"""The environment variables that make a process a rank, the same under every launcher."""

from __future__ import annotations

import os
from collections.abc import Mapping

from trainer.errors import ConfigError
from trainer.machine.cache_folder import cache_folder

MARKS = ("RANK", "WORLD_SIZE", "MASTER_ADDR")


def is_rank(environment: Mapping[str, str]) -> bool:
    """Whether this process was started as a rank; SLURM_* alone never decides, since batch scripts have it too."""
    return all(name in environment for name in MARKS)


def for_rank(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What rank `rank` of `world_size` on this one machine needs to find its peers."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def for_threads(processes: int, threads: int | None, environment: Mapping[str, str]) -> dict[str, str]:
    """CPU threads of each of `processes` ranks; `threads` is launch.threads. Must be set before torch is imported.

    Threads that wait for work by spinning for long starve whatever else runs on their core, and threads that sleep at
    once lose a fifth to a third of the speed of small models to waking up (docs/PERFORMANCE.md): they spin briefly
    where every thread has a core of its own, and else not at all.
    """
    cores = len(os.sched_getaffinity(0))
    count = threads or int(environment.get("OMP_NUM_THREADS", 0)) or max(1, cores // processes)
    own_cores = processes * count <= cores
    waiting = {"GOMP_SPINCOUNT": "10000"} if own_cores else {"GOMP_SPINCOUNT": "0", "OMP_WAIT_POLICY": "passive"}
    return {"OMP_NUM_THREADS": str(count)} | {name: environment.get(name, value) for name, value in waiting.items()}


def for_compiler(environment: Mapping[str, str]) -> dict[str, str]:
    """Where torch.compile keeps what it built: by default in a folder that outlives a reboot, unlike torch's /tmp.

    For ranks on one machine; a cluster's nodes share home folders, which thousands of ranks must not fill at once.
    """
    name = "TORCHINDUCTOR_CACHE_DIR"
    return {name: environment.get(name) or str(cache_folder(environment, "torchinductor"))}


def check_processes(processes: int | None, environment: Mapping[str, str]) -> None:
    """Refuses launch.processes when somebody else (torchrun, sbatch) has started another number of ranks here."""
    started = int(environment.get("LOCAL_WORLD_SIZE", environment["WORLD_SIZE"]))
    if processes not in (None, started):
        raise ConfigError(
            f"launch.processes={processes}: {started} rank{'s' * (started > 1)} were started here already; "
            "leave launch.processes out."
        )

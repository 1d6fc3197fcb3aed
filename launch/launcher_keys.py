"""Which keys of `launch` belong to which launcher; one that the chosen launcher doesn't know is refused."""

from __future__ import annotations

import dataclasses

from trainer.config import Launch
from trainer.errors import ConfigError

SHARED = ("name", "threads", "device", "check_memory")
KEYS = {
    "local": ("processes",),
    "slurm": (
        "nodes",
        "gpus_per_node",
        "tasks_per_node",
        "cpus_per_task",
        "time",
        "partition",
        "account",
        "sbatch",
        "setup",
        "grace_s",
        "max_restarts",
        "chain",
        "elastic",
        "min_nodes",
        "dry_run",
    ),
    "ray": ("workers", "cpus_per_worker", "gpus_per_worker", "max_failures", "resize_check_s", "start_timeout_s"),
}


def check_keys(launch: Launch) -> None:
    """ConfigError for an unknown launcher, and for a key that was changed although the launcher doesn't know it."""
    if launch.name not in KEYS:
        raise ConfigError(f"launch={launch.name}: no such launcher; choose one of {', '.join(KEYS)}.")
    known = (*SHARED, *KEYS[launch.name])
    default = Launch()
    for item in dataclasses.fields(Launch):
        value = getattr(launch, item.name)
        if item.name in known or value == getattr(default, item.name):
            continue
        owners = [name for name, keys in KEYS.items() if item.name in keys]
        raise ConfigError(
            f"launch.{item.name}={value}: launch={launch.name} has no such key; leave it out, or choose "
            f"launch={' or '.join(owners)}."
        )

"""The launchers: how each starts a verb's ranks, and runs prepare. One more is a folder or file here, and two rows:

LAUNCHERS below, and the one of trainer/config/launchers.py, which says its keys and how many ranks they ask for.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from launch import rank_environment
from launch.verbs import Verb
from trainer.config import Launch
from trainer.config.launchers import LAUNCHERS as FACTS
from trainer.config.launchers import SHARED_KEYS
from trainer.errors import ConfigError
from trainer.machine.interrupt import end_if_stuck

# Verb, its configuration, what was typed after it, and what refuses a number of ranks → the exit code
Start = Callable[[Verb, Any, Sequence[str], Callable[[int], None]], int]


@dataclass(frozen=True)
class Launcher:
    """`start` runs a verb on ranks, `prepare` the items of prepare, which has none, `serve` the replicas of a server.

    `on_rank` is called in each rank before torch is imported; it returns how many ranks share the cores that are left
    to this one.
    """

    start: Start
    prepare: Callable[[Verb, Any], int]
    serve: Callable[[Verb, Any, Sequence[str]], int]
    on_rank: Callable[[], int] = lambda: int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def check_keys(launch: Launch) -> None:
    """ConfigError for an unknown launcher, and for a key that was changed although the launcher doesn't know it."""
    if launch.name not in FACTS:
        raise ConfigError(f"launch={launch.name}: no such launcher; choose one of {', '.join(FACTS)}.")
    known = (*SHARED_KEYS, *FACTS[launch.name].keys)
    default = Launch()
    for item in dataclasses.fields(Launch):
        value = getattr(launch, item.name)
        if item.name in known or value == getattr(default, item.name):
            continue
        owners = [name for name, facts in FACTS.items() if item.name in facts.keys]
        raise ConfigError(
            f"launch.{item.name}={value}: launch={launch.name} has no such key; leave it out, or choose "
            f"launch={' or '.join(owners)}."
        )


def run_here(verb: Verb, config: Any) -> int:
    """Runs a verb in this process."""
    if verb.on_ranks:
        end_if_stuck()
    return int(importlib.import_module(verb.module).main(config))


def become_rank(launch: Any) -> None:
    """Settles what must be before torch is imported: the number of ranks, this one's cores and threads."""
    rank_environment.check_processes(launch.processes, os.environ)
    sharing = LAUNCHERS[launch.name].on_rank()
    os.environ.update(rank_environment.for_threads(sharing, launch.threads, os.environ))


def _start_locally(verb: Verb, config: Any, arguments: Sequence[str], check: Callable[[int], None]) -> int:
    from launch import local

    # -P: a folder named trainer where the user stands must not be taken for ours.
    command = [sys.executable, "-P", "-m", "launch", verb.name, *arguments]
    return local.run(config.launch, command, lambda: run_here(verb, config), check)


def _prepare_locally(verb: Verb, config: Any) -> int:
    from launch.slurm import array

    return int(importlib.import_module(verb.module).main(config, share=array.share_of(os.environ)))


def _submit_to_slurm(verb: Verb, config: Any, arguments: Sequence[str], check: Callable[[int], None]) -> int:
    from launch.slurm import launcher

    return launcher.run(verb, config, arguments, check)


def _prepare_on_slurm(verb: Verb, config: Any) -> int:
    raise ConfigError("launch=slurm: prepare isn't submitted; use sbatch slurm/prepare.sbatch, or launch=ray.")


def _bind_cores() -> int:
    """A rank takes cores near its GPU, and shares them with nobody."""
    from launch import cores

    cores.bind(int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return 1


def _bind_beside_gpus() -> int:
    """A rank that has one of this node's GPUs, where each has a rank, takes cores near it; else all share all cores.

    Which GPU a rank has isn't known here where some are left to others.
    """
    from launch import cores

    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return _bind_cores() if ranks > 1 and len(cores.gpu_cores()) == ranks else ranks


def _start_on_ray(verb: Verb, config: Any, arguments: Sequence[str], check: Callable[[int], None]) -> int:
    from launch.ray import launcher

    return launcher.run(verb.name, config, arguments, check)


def _prepare_on_ray(verb: Verb, config: Any) -> int:
    from launch.ray import map as ray_map

    return ray_map.run(config, importlib.import_module(verb.module).main)


def _serve_here(verb: Verb, config: Any, arguments: Sequence[str]) -> int:
    return run_here(verb, config)


def _serve_on_slurm(verb: Verb, config: Any, arguments: Sequence[str]) -> int:
    raise ConfigError("launch=slurm: serve isn't submitted; use sbatch slurm/serve.sbatch, or launch=ray.")


def _serve_on_ray(verb: Verb, config: Any, arguments: Sequence[str]) -> int:
    from launch.ray import serve_app

    return serve_app.run(config, arguments)


LAUNCHERS: dict[str, Launcher] = {
    "local": Launcher(_start_locally, _prepare_locally, _serve_here, _bind_beside_gpus),
    "slurm": Launcher(_submit_to_slurm, _prepare_on_slurm, _serve_on_slurm, _bind_cores),
    "ray": Launcher(_start_on_ray, _prepare_on_ray, _serve_on_ray, _bind_beside_gpus),
}

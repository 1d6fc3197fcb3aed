"""The Ray cluster in reach: connecting to it, and whether a job fits into it."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.config import Launch
from trainer.errors import BanyanError, ConfigError
from trainer.machine.vanishing_folder import vanishing_folder

# Set before Ray is imported, where the user hasn't: no telemetry; every line of a rank is shown; a lost node is an
# error that attempts deal with, announced or not.
DEFAULTS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
# A cluster of our own asks for a token and is reached from this machine alone (so Ray calls it), or others could run
# code as us.
LOCAL_DEFAULTS = {"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
LOCAL_ADDRESS = "127.0.0.1"
LONGEST_BASE = 25  # of the path of its folder: those of Ray's sockets below must not exceed 107 characters
STARTS, SLOW = 4, "timed out during startup"


@contextlib.contextmanager
def connected(*, shows_workers: bool = True) -> Iterator[None]:
    """In the cluster of RAY_ADDRESS, or in a local one that is started for it and ends with it.

    shows_workers: what Ray's workers print is printed here, too.
    """
    address = os.environ.get("RAY_ADDRESS", "local")
    if "://" in address:
        raise ConfigError(
            f"RAY_ADDRESS={address}: this runs inside the cluster; set RAY_ADDRESS=HOST:PORT on one of its "
            "machines, or submit from outside by ray job submit --address http://HOST:8265 -- banyan …"
        )
    is_local = address == "local"
    for name, value in (DEFAULTS | (LOCAL_DEFAULTS if is_local else {})).items():
        os.environ.setdefault(name, value)
    if is_local and not any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # else Ray leaves one in a file that others can read
    try:
        import ray
    except ImportError as error:
        raise ConfigError("launch=ray needs Ray, which isn't installed: pip install 'banyan-train[ray]'.") from error
    with contextlib.ExitStack() as stack:
        settings = stack.enter_context(_local_settings()) if is_local else {}
        try:
            _connect(address, settings, shows_workers=shows_workers)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise BanyanError(f"RAY_ADDRESS={address}: no cluster answers there ({_first_line(error)}).") from error
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _local_settings() -> Iterator[dict[str, Any]]:
    """What ray.init needs for a cluster of our own. Ray's folders are for all to write: one around keeps them out."""
    base = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    with vanishing_folder("ray-", base if len(base) <= LONGEST_BASE else "/tmp") as folder:
        yield {"_node_ip_address": LOCAL_ADDRESS, "_temp_dir": str(folder / "r"), "include_dashboard": False}


def _connect(address: str, settings: Mapping[str, Any], *, shows_workers: bool) -> None:
    """ray.init, which gives a local cluster half a minute to start: a busy machine may not keep that."""
    import ray

    for _ in range(STARTS):
        try:
            ray.init(address=address, logging_level=logging.WARNING, log_to_driver=shows_workers, **settings)
            return
        except Exception as error:
            if SLOW not in str(error):
                raise
            ray.shutdown()
    raise BanyanError(f"Ray's daemons didn't start, in {STARTS} tries: the machine is too busy; try again later.")


@dataclass(frozen=True)
class Demand:
    """What a job takes: from `least` to `most` bundles, each of `ranks` ranks on one node."""

    least: int
    most: int
    ranks: int
    cpus: float
    gpus: int

    @property
    def bundle(self) -> dict[str, float]:
        """Ray's resources of one bundle."""
        return {name: amount for name, amount in (("CPU", self.cpus), ("GPU", float(self.gpus))) if amount}

    def in_words(self, bundles: int) -> str:
        """`4 × (2 CPU, 1 GPU on one node)`."""
        return f"{bundles} × ({', '.join(f'{amount:g} {name}' for name, amount in self.bundle.items())} on one node)"


def demand_of(launch: Launch, sizes: tuple[int, int], ranks_per_bundle: int) -> Demand:
    """What `sizes` (fewest and most ranks) need of the cluster; every `ranks_per_bundle` ranks share a node."""
    import ray

    gpus = launch.gpus_per_worker
    if gpus is None:
        gpus = int(ray.cluster_resources().get("GPU", 0) > 0)
    return Demand(
        least=sizes[0] // ranks_per_bundle,
        most=sizes[1] // ranks_per_bundle,
        ranks=ranks_per_bundle,
        cpus=launch.cpus_per_worker * ranks_per_bundle,
        gpus=gpus * ranks_per_bundle,
    )


def require_room(demand: Demand) -> None:
    """ConfigError, saying what is missing and what there is, if the cluster can't hold the job even when it is idle."""
    room = bundles_that_fit(demand)
    if room >= demand.least:
        return
    has = "; ".join(f"{address} has {_in_words(resources)}" for address, resources in sorted(_nodes().items()))
    mend = f"use launch.workers={room * demand.ranks}, " if room else ""
    raise ConfigError(
        f"launch.workers={demand.least * demand.ranks} needs {demand.in_words(demand.least)}, and the cluster has room "
        f"for {room}: {has}; {mend}reserve less by launch.cpus_per_worker and launch.gpus_per_worker, or add nodes."
    )


def count_nodes() -> int:
    """How many nodes live."""
    return len(_nodes())


def bundles_that_fit(demand: Demand) -> int:
    """How many bundles the cluster holds when it is idle."""
    return sum(bundles_in(resources, demand.bundle) for resources in _nodes().values())


def bundles_in(resources: Mapping[str, float], bundle: Mapping[str, float]) -> int:
    """How many bundles fit into a node's resources."""
    return min((int(resources.get(name, 0.0) // amount) for name, amount in bundle.items()), default=0)


def free_in_words() -> str:
    """What is free in the cluster at the moment, all nodes together."""
    import ray

    return _in_words(ray.available_resources())


def _nodes() -> dict[str, dict[str, float]]:
    """What each living node has, by its address."""
    import ray

    return {node["NodeManagerAddress"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def _in_words(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{resources.get(name, 0.0):g} {name}" for name in ("CPU", "GPU") if name in resources) or "0 CPU"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")

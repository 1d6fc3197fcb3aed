"""The Ray cluster of a sweep: the one that RAY_ADDRESS names, or one of its own on this machine, gone with it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from trainer.errors import ConfigError

SETTINGS = {
    "RAY_AUTH_MODE": "disabled",  # else ray.init writes a token, and clusters started later want it
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours lets trials checkpoint
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # the report that a trial ended has no loss
    "TUNE_WARN_THRESHOLD_S": "60",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",  # a machine that stalls for a minute isn't dead
    "RAY_worker_niceness": "0",  # a trial isn't to be slower than the same run by hand
    "RAY_AIR_NEW_OUTPUT": "0",  # whose headings can't be turned off
}
STARTS = 5  # tries
LONGEST_TMPDIR = 40  # of the 107 characters of a socket's path Ray takes the rest


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """Joins the cluster, or starts one; leaves it at the end."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if len(os.environ.get("TMPDIR", "")) > LONGEST_TMPDIR:
        os.environ.setdefault("RAY_TMPDIR", "/tmp")
    import ray

    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    if os.environ.get("RAY_ADDRESS"):
        join(quiet)
    else:
        start(quiet)
    try:
        yield
    finally:
        ray.shutdown()


def join(options: dict[str, Any]) -> None:
    """Joins RAY_ADDRESS. ConfigError if there is no cluster."""
    import ray

    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        address = os.environ["RAY_ADDRESS"]
        raise ConfigError(f"RAY_ADDRESS={address}: no Ray cluster there ({str(error).splitlines()[0]}).") from error


def start(options: dict[str, Any]) -> None:
    """Starts a cluster of this machine's cores. Ray waits 30 s for itself, which a busy machine may not keep."""
    import ray

    cores = len(os.sched_getaffinity(0))
    for attempt in range(STARTS):
        try:
            ray.init(address="local", num_cpus=cores, include_dashboard=False, **options)
            return
        except Exception as error:
            if "timed out during startup" not in str(error) or attempt == STARTS - 1:
                raise
            print("Ray didn't start in time; trying again", flush=True)
            ray.shutdown()


def resources_for(ranks: int, threads: int | None) -> dict[str, float]:
    """What a trial reserves, on one node: a core for each thread of a rank, and a GPU for each rank if there are any.

    ConfigError if no node has as much: such a trial would wait for ever.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needed: dict[str, float] = {"CPU": ranks * (threads or 1)}
    if any(node.get("GPU", 0) > 0 for node in nodes):
        needed["GPU"] = ranks
    if any(all(node.get(name, 0) >= count for name, count in needed.items()) for node in nodes):
        return needed
    wanted = " and ".join(f"{count:g} {name}s" for name, count in needed.items())
    largest = max(nodes, key=lambda node: [node.get(name, 0) for name in reversed(needed)])
    there = " and ".join(f"{largest.get(name, 0):g}" for name in needed)
    raise ConfigError(
        f"a trial of {ranks} rank{'s' * (ranks > 1)} needs {wanted} on one node, and the largest node has {there}: "
        "lower search.ranks_per_trial or launch.threads."
    )


def room_for(needed: dict[str, float]) -> int:
    """How many trials fit at once."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(min(int(node.get(name, 0) // count) for name, count in needed.items()) for node in nodes)

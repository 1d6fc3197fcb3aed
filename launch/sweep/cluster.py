"""Room for the trials on the Ray cluster: the one of RAY_ADDRESS, or a local one, gone with the sweep."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

from launch.ray import cluster as ray_cluster
from trainer.errors import ConfigError

SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # whose headings can't be turned off
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",  # a machine that stalls for a minute isn't dead
    "RAY_worker_niceness": "0",  # a trial isn't to be slower than the same run by hand
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours lets trials checkpoint
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # the report that a trial ended has no loss
    "TUNE_WARN_THRESHOLD_S": "60",
}


@contextlib.contextmanager
def connected_for_tune() -> Iterator[None]:
    """In the cluster, with Ray Tune set to be quiet."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    with ray_cluster.connected(shows_workers=False):  # trials have logs of their own
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        yield


def resources_for(ranks: int, threads: int) -> dict[str, float]:
    """What a trial reserves, on one node: a core for each thread of a rank, and a GPU for each rank if there are any.

    ConfigError if no node has as much: such a trial would wait for ever.
    """
    needed: dict[str, float] = {"CPU": ranks * threads}
    nodes = _nodes()
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


def trials_that_fit(needed: dict[str, float]) -> int:
    """How many trials fit at once."""
    return sum(min(int(node.get(name, 0) // count) for name, count in needed.items()) for node in _nodes())


def _nodes() -> list[dict[str, float]]:
    """The resources of every node that lives."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]

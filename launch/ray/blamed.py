"""Nodes of a Ray cluster that failures of a run were put down to: left out while the others have room."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch.blame import NODES, blame_counts, hosts_named, remember_blames, same_node
from launch.rank_group import ExitStatus
from launch.ray.cluster import Demand, bundles_in
from launch.ray.paths import newest_listed_step


@dataclasses.dataclass(frozen=True)
class RayNode:
    """A living node, by whatever a failure may call it."""

    id: str
    address: str
    host: str
    resources: Mapping[str, float]

    def is_named(self, host: str) -> bool:
        """Whether a failure's host is this one."""
        return host == self.address or same_node(host, self.host)


def living_nodes() -> list[RayNode]:
    """Every node that lives."""
    import ray

    return [
        RayNode(node["NodeID"], node["NodeManagerAddress"], node["NodeManagerHostname"], node["Resources"])
        for node in ray.nodes()
        if node["Alive"]
    ]


def left_out(run_dir: Path | None, demand: Demand, nodes: list[RayNode]) -> list[RayNode]:
    """Blamed nodes that the job can do without, those that were blamed most often first."""
    counts = blame_counts(run_dir) if run_dir is not None else {}
    blames = {node.id: sum(n for host, n in counts.items() if node.is_named(host)) for node in nodes}
    out: list[RayNode] = []
    for node in sorted(nodes, key=lambda node: -blames[node.id]):
        rest = [other for other in nodes if other not in (*out, node)]
        room = sum(bundles_in(other.resources, demand.bundle) for other in rest)
        if blames[node.id] and room >= demand.least:
            out.append(node)
    return out


def selector_of(out: list[RayNode]) -> dict[str, str]:
    """Ray's labels of the nodes that bundles may go to; empty: all."""
    return {"ray.io/node-id": f"!in({','.join(node.id for node in out)})"} if out else {}


def keep_blame(run_dir: Path | None, status: ExitStatus, nodes: list[RayNode]) -> None:
    """Remembers the nodes that a failure names, by their addresses; none where it names them all."""
    if run_dir is None or status.failure is None or not run_dir.is_dir():
        return
    hosts = hosts_named(status.failure)
    blamed = [node.address for node in nodes if any(node.is_named(host) for host in hosts)]
    if blamed and len(blamed) < len(nodes):
        remember_blames(run_dir, status.failure, blamed, newest_listed_step(run_dir))
        print(f"banyan: put down to {', '.join(blamed)}, as {run_dir / NODES} remembers", flush=True)


def placed(status: ExitStatus, address: str) -> ExitStatus:
    """A worker's status with its node in what is said of a killed rank: the driver doesn't know where that was."""
    failed: Any = status.failure
    message = re.sub(r"^(rank \d+) was killed by", rf"\1 on {address} was killed by", failed.message)
    return dataclasses.replace(status, failure=dataclasses.replace(failed, message=message))

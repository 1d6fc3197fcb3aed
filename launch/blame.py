"""Nodes that failures of a run were put down to: RUN/nodes.json, so that later starts can do without them.

A node is blamed by the watchdog, whose report names its host; by a rank that was killed there; by an error of its GPU
there; and by `banyan doctor … doctor.output=RUN/doctor.json`, which lists the hosts to leave out. Whoever trusts a node
again takes its lines out of the file, or removes both.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from launch.failure import Failure
from trainer.errors import HangError
from trainer.machine.durable import write_json
from trainer.machine.json_file import Count, from_json, read_json

NODES, DOCTOR = "nodes.json", "doctor.json"
MOST_BLAMES = 1000  # that are kept, the latest
DOCTOR_SAYS = "banyan doctor: exclude"

_HOST = re.compile(r"\(host ([^\s,()]+), pid \d+\)")
_KILLED = re.compile(r"(?:rank|worker) \d+ on (\S+) was (?:killed by|lost)")
_HARDWARE = re.compile(
    r"uncorrectable ECC|fallen off the bus|NVLink error|hardware stack error|unspecified launch failure|"
    r"no CUDA-capable device|CUDA-capable device\(s\) is/are busy|CUDA error: unknown error|system not yet initialized",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Blame:
    """One failure: the node as the launcher calls it, the step of the newest checkpoint then, and what was said."""

    node: str
    time: float
    step: Count
    reason: str


def hosts_named(failed: Failure, where: str | None = None) -> list[str]:
    """Hosts that a failure is put down to, as it names them; `where` is the node of the rank that reported it."""
    if failed.kind == HangError.__name__:
        return list(dict.fromkeys(_HOST.findall(failed.message)))
    if killed := _KILLED.match(failed.message):
        return [killed[1]]
    return [where] if where and _HARDWARE.search(f"{failed.message}\n{failed.traceback}") else []


def remember_blames(run_dir: Path, failed: Failure, hosts: Sequence[str], step: int) -> None:
    """Adds a blame for each of these nodes."""
    found = [*recorded_blames(run_dir), *(Blame(host, failed.time, step, failed.message[:300]) for host in hosts)]
    write_json(run_dir / NODES, {"version": 1, "blames": [asdict(blame) for blame in found[-MOST_BLAMES:]]})


def recorded_blames(run_dir: Path) -> list[Blame]:
    """Blames of this run's failures; what can't be read was never there."""
    try:
        told = read_json(run_dir / NODES)
        return [from_json(Blame, one) for one in told["blames"]]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def blame_counts(run_dir: Path) -> Counter[str]:
    """How often each node was blamed; what the doctor found counts as often as it takes."""
    counts = Counter(blame.node for blame in recorded_blames(run_dir))
    for host in _doctors(run_dir):
        counts[host] += 2
    return counts


def _doctors(run_dir: Path) -> list[str]:
    try:
        told = read_json(run_dir / DOCTOR)["exclude"]
        return [host for host in told if isinstance(host, str) and re.fullmatch(r"[\w.:-]{1,253}", host)]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def same_node(one: str, other: str) -> bool:
    """Whether two names are of one node: one may have its domain behind it."""
    return one == other or (one.split(".")[0] == other.split(".")[0] and not one[0].isdigit())


def counts_of(nodes: Sequence[str], counts: Counter[str]) -> dict[str, int]:
    """How often each of an allocation's nodes was blamed."""
    return {node: sum(n for host, n in counts.items() if same_node(host, node)) for node in nodes}


def choose(nodes: Sequence[str], number: int, counts: Counter[str]) -> list[str]:
    """`number` of an allocation's nodes, those first that were blamed least; in the allocation's order."""
    blames = counts_of(nodes, counts)
    chosen = sorted(nodes, key=lambda node: (blames[node], nodes.index(node)))[:number]
    return [node for node in nodes if node in chosen]


def names_of(hosts: Collection[str], nodes: Sequence[str]) -> list[str]:
    """Those of an allocation's nodes that are named. None where all of them are: then it is no node's fault."""
    found = [node for node in nodes if any(same_node(host, node) for host in hosts)]
    return found if len(found) < len(nodes) else []

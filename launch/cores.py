"""Binds a rank to the cores beside its GPU, or to its even share where a GPU's place isn't known.

Ranks of a node must not wander over each other's cores, and copies to a GPU are slow from the far socket.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

PCI_DEVICES = Path("/sys/bus/pci/devices")
CPUS = Path("/sys/devices/system/cpu")


def bind(local_rank: int, local_ranks: int) -> set[int]:
    """Binds this process, and threads that it starts from now on; the cores. Must come before torch is imported."""
    allowed = by_physical_core(os.sched_getaffinity(0))
    beside = gpu_cores()
    chosen = share(allowed, beside[:local_ranks] if len(beside) >= local_ranks else [], local_rank, local_ranks)
    os.sched_setaffinity(0, chosen)
    return chosen


def share(allowed: Sequence[int], beside: Sequence[set[int]], rank: int, ranks: int) -> set[int]:
    """The cores of `rank`, of `ranks` on this node, out of `allowed`; at least one.

    `beside` are the cores near each rank's GPU. Ranks whose GPUs have the same ones share those out. Where nothing is
    known of a GPU, or none of its cores is allowed, all ranks share out all cores.
    """
    near = [{core for core in allowed if core in cores} for cores in beside]
    if len(near) != ranks or not all(near):
        near = [set(allowed)] * ranks
    peers = [peer for peer in range(ranks) if near[peer] == near[rank]]
    cores = [core for core in allowed if core in near[rank]]
    place, parts = peers.index(rank), len(peers)
    if len(cores) < parts:
        return {cores[place % len(cores)]}
    return set(cores[place * len(cores) // parts : (place + 1) * len(cores) // parts])


def by_physical_core(cores: set[int]) -> list[int]:
    """`cores` in ascending order, but hardware threads of one physical core side by side."""

    def place(core: int) -> tuple[int, int]:
        siblings = _read(CPUS / f"cpu{core}/topology/thread_siblings_list")
        return (min(parse_list(siblings)) if siblings else core, core)

    return sorted(cores, key=place)


def gpu_cores() -> list[set[int]]:
    """For each GPU that this process sees, in the order of PCI addresses, the cores beside it; [] if none is seen."""
    question = ["nvidia-smi", "--query-gpu=pci.bus_id", "--format=csv,noheader"]
    try:
        answer = subprocess.run(question, capture_output=True, encoding="utf-8", timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    addresses = [line.strip().lower()[-12:] for line in answer.splitlines()]  # 00000000:3B:00.0, in /sys 0000:3b:00.0
    return [parse_list(_read(PCI_DEVICES / address / "local_cpulist")) for address in sorted(addresses)]


def parse_list(text: str) -> set[int]:
    """The kernel's list of cores, such as "0-3,8", as a set."""
    cores: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return cores


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""

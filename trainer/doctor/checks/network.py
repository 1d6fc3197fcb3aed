"""Collectives as training uses them, among all ranks, within hosts and across them; and each host's links to the next,
by which one that is worse than the others is found."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed

from trainer.doctor.check import (
    Check,
    Diagnosis,
    RankReading,
    Station,
    by_host,
    one_of_each_host,
    range_of_values,
    slow_ones,
)
from trainer.doctor.hardware import adapter_speed, all_reduce_figure
from trainer.ranks.mesh import own_group

MIB = 2**20
SIZES = {"cuda": (MIB, 16 * MIB, 256 * MIB), "cpu": (MIB, 16 * MIB)}
TRIPS = {"cuda": 10, "cpu": 2}
REDUCE, EXCHANGE = "all-reduce", "all-to-all"
GROUPS = {"all": "all ranks", "within": "within hosts", "across": "across hosts"}


def measure(station: Station) -> dict[str, Any]:
    """GB/s: bus bandwidth of all-reduce and all-to-all, by group and size; links to the hosts beside this one."""
    mesh = station.mesh
    hosts = mesh.gather(station.host)
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(mesh.device) if mesh.device.type == "cuda" else "cpu",
        "adapter": adapter_speed(os.environ.get("GLOO_SOCKET_IFNAME", "")),
        "bandwidth": [],
    }
    if mesh.world_size == 1:
        return found
    groups: dict[str, Any] = {"all": None}
    per_host = [[rank for rank, host in enumerate(hosts) if host == each] for each in dict.fromkeys(hosts)]
    if len(per_host) > 1:
        firsts = [ranks[0] for ranks in per_host]
        rest = [rank for rank in range(mesh.world_size) if rank not in firsts]
        within = own_group(per_host)
        groups |= {"within": within, "across": own_group([firsts, rest] if rest else [firsts])}
        if mesh.rank in rest:
            del groups["across"]
    for group in GROUPS:
        mesh.barrier()
        if group not in groups or (ranks := torch.distributed.get_world_size(groups[group])) == 1:
            continue
        for size in SIZES[mesh.device.type]:
            reduce, exchange = _all_reduce(groups[group]), _all_to_all(groups[group], ranks)
            found["bandwidth"] += [
                [group, REDUCE, size, 2 * (ranks - 1) / ranks * _speed(station, reduce, size)],
                [group, EXCHANGE, size, (ranks - 1) / ranks * _speed(station, exchange, size)],
            ]
    mesh.barrier()
    if len(per_host) > 2:
        found["links"] = _links(station, [ranks[0] for ranks in per_host])
    return found


def _speed(station: Station, collective: Callable[[torch.Tensor], None], size: int) -> float:
    """GB/s of a tensor of `size` bytes; the first trip, which opens connections, isn't counted."""
    device = station.mesh.device
    tensor = torch.zeros(size // 4, device=device)
    collective(tensor)
    trips = TRIPS[device.type]
    _synchronise(device)
    began = time.perf_counter()
    for _ in range(trips):
        collective(tensor)
    _synchronise(device)
    return size * trips / (time.perf_counter() - began) / 1e9


def _all_reduce(group: Any) -> Callable[[torch.Tensor], None]:
    return lambda tensor: torch.distributed.all_reduce(tensor, group=group)


def _all_to_all(group: Any, ranks: int) -> Callable[[torch.Tensor], None]:
    def exchange(tensor: torch.Tensor) -> None:
        part = tensor[: len(tensor) // ranks * ranks]
        torch.distributed.all_to_all_single(torch.empty_like(part), part, group=group)

    return exchange


def _links(station: Station, firsts: list[int]) -> list[float]:
    """GB/s of this host's links to the hosts before and after it in a ring, each link by itself; [] for other ranks."""
    mesh = station.mesh
    if mesh.rank not in firsts:
        for _ in range(3):
            mesh.barrier()
        return []
    number, count = firsts.index(mesh.rank), len(firsts)
    found = []
    for phase in range(3):  # links of a ring take three turns where their number is odd
        mesh.barrier()
        for first in (number, (number - 1) % count):
            turn = 2 if first == count - 1 and count % 2 else first % 2
            if turn != phase:
                continue
            peer = firsts[(first + 1) % count] if first == number else firsts[first]
            found.append(_link(station, peer, sends_first=first == number))
    return found


def _link(station: Station, peer: int, *, sends_first: bool) -> float:
    device = station.mesh.device
    size = SIZES[device.type][-1] // 4
    tensor = torch.zeros(size // 4, device=device)

    def trip() -> None:
        for sends in (sends_first, not sends_first):
            (torch.distributed.send if sends else torch.distributed.recv)(tensor, peer)

    trip()
    _synchronise(device)
    began = time.perf_counter()
    trip()
    _synchronise(device)
    return 2 * size / (time.perf_counter() - began) / 1e9


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def judge(readings: list[RankReading], station: Station) -> Diagnosis:
    """Bandwidths beside what such hosts should give, and hosts whose links are all slower than others'."""
    diagnosis, first, share = Diagnosis(), readings[0].values, station.config.doctor.slow
    if len(readings) == 1 and not first["bandwidth"]:
        diagnosis.measured.append("one rank: nothing to exchange")
        return diagnosis
    hosts = by_host(readings)
    ranks_of_host = max(map(len, hosts.values()))
    speeds: dict[tuple[str, str], dict[int, dict[int, float]]] = {}
    for reading in readings:
        for group, kind, size, speed in reading.values["bandwidth"]:
            speeds.setdefault((group, kind), {}).setdefault(size, {})[reading.rank] = speed
    for (group, kind), sizes in speeds.items():
        by_size = "; ".join(
            f"{size // MIB} MiB {range_of_values(list(sizes[size].values()), 'GB/s')}" for size in sorted(sizes)
        )
        should = all_reduce_figure(first["device"], group, len(hosts), ranks_of_host) if kind == REDUCE else None
        diagnosis.measured.append(
            f"{kind}, {GROUPS[group]}: {by_size}{f'; should give {should:g} at last' if should else ''}"
        )
        if should:
            largest = sizes[max(sizes)]
            low = [each for each in readings if largest.get(each.rank, should) < share * should]
            what = "NVLink" if group == "within" or len(hosts) == 1 else "InfiniBand (adapters, GPUDirect)"
            diagnosis.blame(
                low, f"{kind} {GROUPS[group]} gives less than {should:g} GB/s: look at {what}", among=readings
            )
    linked = [
        RankReading(each.rank, each.host, {"best": max(each.values["links"])})
        for each in one_of_each_host(readings)
        if each.values.get("links")
    ]
    if linked:
        slow, usual = slow_ones(linked, "best", share / 2)
        adapter = f"; the adapter has {first['adapter']:.3g}" if first.get("adapter") else ""
        best = [each.values["best"] for each in linked]
        diagnosis.measured.append(f"links between hosts: {range_of_values(best, 'GB/s')}{adapter}")
        diagnosis.blame(slow, f"its links give less than half of the usual {usual:.3g} GB/s: look at its adapter")
    return diagnosis


CHECK = Check("network", measure, judge)

"""Collectives as training uses them, among all ranks, within hosts and across them; and each host's links to the next,
by which one that is worse than the others is found."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed

from trainer.doctor.check import (
    Check,
    Diagnosis,
    Finding,
    RankReading,
    Station,
    by_host,
    hosts_of,
    name,
    range_of_values,
    slow_ones,
)

MIB = 2**20
SIZES = {"cuda": (MIB, 256 * MIB), "cpu": (MIB, 16 * MIB)}
TRIPS = {"cuda": 10, "cpu": 2}
WITHIN = {"H200": 480, "H100": 460, "A100": 228}  # GB/s of all-reduce's bus by NVLink, as Azure's node checks expect
ACROSS = {"H200": 400, "H100": 380, "A100": 180}  # by InfiniBand with 8 adapters, of 8 GPUs a node


def measure(station: Station) -> dict[str, Any]:
    """GB/s: bus bandwidth of all-reduce and of all-to-all, by group and size; links to the hosts beside this one."""
    mesh = station.mesh
    hosts = mesh.gather(station.host)
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(mesh.device) if mesh.device.type == "cuda" else "cpu",
    }
    if mesh.world_size == 1:
        return found
    groups: dict[str, Any] = {"all": None}
    per_host = [[rank for rank, host in enumerate(hosts) if host == each] for each in dict.fromkeys(hosts)]
    if len(per_host) > 1:
        own = [torch.distributed.new_group(ranks) for ranks in per_host if len(ranks) > 1 or len(per_host) < 64]
        within = next((group for group, ranks in zip(own, per_host, strict=False) if mesh.rank in ranks), None)
        across = torch.distributed.new_group([ranks[0] for ranks in per_host])
        groups |= {"within": within, "across": across}
    for name_, group in groups.items():
        members = group is None or torch.distributed.get_rank(group) >= 0
        mesh.barrier()
        if not members or (ranks := torch.distributed.get_world_size(group)) == 1:
            continue
        for size in SIZES[mesh.device.type]:
            found[f"{name_}_all_reduce_{size}"] = 2 * (ranks - 1) / ranks * _speed(station, _all_reduce(group), size)
        if name_ == "all":
            size = SIZES[mesh.device.type][0]
            found[f"all_to_all_{size}"] = (ranks - 1) / ranks * _speed(station, _all_to_all(group, ranks), size)
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
    size = SIZES[device.type][1] // 4
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
    diagnosis, device = Diagnosis(), readings[0].values["device"]
    if "all_reduce" not in "".join(readings[0].values):
        diagnosis.measured.append("one rank: nothing to exchange")
        return diagnosis
    largest = SIZES[station.mesh.device.type][-1]
    for key in sorted({key for each in readings for key in each.values if "all_" in key}):
        speeds = [each.values[key] for each in readings if key in each.values]
        group, _, rest = key.partition("_all_reduce_")
        title = (
            f"all-reduce {group}, {int(rest) // MIB} MiB"
            if rest
            else f"all-to-all, {int(key.split('_')[-1]) // MIB} MiB"
        )
        should = _expected(group, device) if rest == str(largest) else None
        text = f"{title}: {range_of_values(speeds, 'GB/s')}"
        diagnosis.measured.append(f"{text}; should give {should:g}" if should else text)
        if should and group == "within":
            low = [each for each in readings if each.values.get(key, should) < station.config.doctor.slow * should]
            if low:
                text = f"{name(low)}: all-reduce within the host gives less than {should:g} GB/s: look at NVLink"
                diagnosis.findings.append(Finding(text, hosts_of(low)))
    linked = [
        RankReading(each.rank, each.host, {"best": max(each.values["links"])})
        for each in (group[0] for group in by_host(readings).values())
        if each.values.get("links")
    ]
    if linked:
        slow, usual = slow_ones(linked, "best", station.config.doctor.slow / 2)
        diagnosis.measured.append(
            f"links between hosts: {range_of_values([each.values['best'] for each in linked], 'GB/s')}"
        )
        if slow:
            text = f"{name(slow)}: its links give less than half of the usual {usual:.3g} GB/s: look at its adapter"
            diagnosis.findings.append(Finding(text, hosts_of(slow)))
    return diagnosis


def _expected(group: str, device: str) -> float | None:
    table = {"within": WITHIN, "across": ACROSS}.get(group, {})
    return next((value for key, value in table.items() if key in device), None)


CHECK = Check("network", measure, judge)

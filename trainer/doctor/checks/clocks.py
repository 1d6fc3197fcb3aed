"""Clocks: how far each host's is from rank 0's, by Cristian's algorithm: the quickest of some round trips."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed

from trainer.doctor.check import Check, Diagnosis, RankReading, Station, one_of_each_host

TRIPS = 5
REQUEST, ANSWER = 11, 12  # tags


def measure(station: Station) -> dict[str, Any]:
    """Seconds by which this host's clock is ahead of rank 0's, and the uncertainty: half a round trip."""
    mesh = station.mesh
    firsts = [rank for rank, first in enumerate(mesh.gather(station.is_first_of_host)) if first and rank != 0]
    if mesh.is_main:
        for rank in firsts:
            for _ in range(TRIPS):
                torch.distributed.recv(torch.empty(1), rank, group=mesh.control, tag=REQUEST)
                now = torch.tensor([time.time()], dtype=torch.float64)
                torch.distributed.send(now, rank, group=mesh.control, tag=ANSWER)
        return {"ahead": 0.0, "within": 0.0}
    if mesh.rank not in firsts:
        return {}
    trips = []
    for _ in range(TRIPS):
        began, began_wall = time.monotonic(), time.time()
        torch.distributed.send(torch.zeros(1), 0, group=mesh.control, tag=REQUEST)
        theirs = torch.empty(1, dtype=torch.float64)
        torch.distributed.recv(theirs, 0, group=mesh.control, tag=ANSWER)
        trip = time.monotonic() - began
        trips.append((trip, began_wall + trip / 2 - theirs.item()))
    trip, ahead = min(trips)
    return {"ahead": ahead, "within": trip / 2}


def judge(readings: list[RankReading], station: Station) -> Diagnosis:
    """The largest difference. Where most agree with each other but not with rank 0, that one is wrong."""
    diagnosis, limit = Diagnosis(), station.config.doctor.clock_s
    hosts = one_of_each_host(each for each in readings if each.values)
    ahead = sorted(each.values["ahead"] for each in hosts)
    usual = ahead[(len(ahead) - 1) // 2] if len(ahead) > 2 else 0.0
    worst = max(abs(each.values["ahead"] - usual) for each in hosts)
    diagnosis.measured.append(
        f"{len(hosts):,} host{'s' * (len(hosts) > 1)}, at most {worst:.3g} s apart (limit {limit:g} s)"
    )
    for each in hosts:
        apart = each.values["ahead"] - usual
        if abs(apart) > limit + each.values["within"]:
            side = "ahead of" if apart > 0 else "behind"
            diagnosis.blame([each], f"its clock is {abs(apart):.1f} s {side} the others': set it (chrony, NTP)")
    return diagnosis


CHECK = Check("clocks", measure, judge)

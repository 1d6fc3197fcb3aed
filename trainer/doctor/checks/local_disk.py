"""Each host's own disk for temporary files: compilers, W&B and sockets of ranks need it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

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
)
from trainer.doctor.disk import Disk, use_disk

BYTES = 2**24


def measure(station: Station) -> dict[str, Any]:
    """What a file in the folder for temporary files shows; {} but for the first rank of each host."""
    if not station.is_first_of_host:
        return {}
    return vars(use_disk(Path(os.environ.get("TMPDIR") or "/tmp"), BYTES, station.mesh.rank))


def judge(readings: list[RankReading], station: Station) -> Diagnosis:
    """The slowest host, and those that can't write or soon won't."""
    return judge_disks([each for each in readings if each.values], station.config.doctor.least_free)


def judge_disks(readings: list[RankReading], least_free: float) -> Diagnosis:
    """Of readings that hold a Disk each."""
    diagnosis, disks = Diagnosis(), [(each, Disk(**each.values)) for each in readings]
    written = [disk.write for _, disk in disks if disk.problem is None]
    if written:
        free = min(disk.free for _, disk in disks) / 1e9
        fsync = max(disk.fsync for _, disk in disks if disk.problem is None)
        read = [disk.read for _, disk in disks if disk.problem is None]
        speeds = f"each host writes {range_of_values(written, 'GB/s')}, reads {range_of_values(read, 'GB/s')}"
        safe = f"a small file is safe after {fsync * 1e3:.3g} ms at most"
        diagnosis.measured.append(f"{disks[0][1].folder}: {speeds}; {safe}; {free:.3g} GB free at least")
    for reading, disk in disks:
        if disk.problem is not None:
            diagnosis.findings.append(Finding(f"{name([reading])}: {disk.folder}: {disk.problem}", (reading.host,)))
    full = [each for each, disk in disks if disk.problem is None and disk.free < least_free * 1e9]
    if full:
        first = [group[0] for group in by_host(full).values()]
        text = f"{name(first)}: {disks[0][1].folder} is nearly full (less than {least_free:g} GB free): make room"
        diagnosis.findings.append(Finding(text, hosts_of(full)))
    slow = [each for each, disk in disks if disk.problem is None and disk.fsync > SLOW_FSYNC_S]
    if slow:
        text = f"{name(slow)}: a small file takes more than {SLOW_FSYNC_S:g} s to be safe on {disks[0][1].folder}"
        diagnosis.findings.append(Finding(f"{text}: checkpoints will stall; choose another disk", hosts_of(slow)))
    return diagnosis


SLOW_FSYNC_S = 2.0
CHECK = Check("local_disk", measure, judge)

"""What the system lets a process have: open files, locked memory, processes, shared memory."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path
from typing import Any

from trainer.doctor.check import Check, Diagnosis, RankReading, Station, one_of_each_host

LEAST_FILES = 1024  # that stay when a run has opened its own (docs/SCALE.md)
LEAST_PROCESSES = 1024  # of the user, threads included: each rank has dozens
LEAST_LOCKED = 2**26  # bytes that InfiniBand's verbs pin
LEAST_SHARED = {"cuda": 2**30, "cpu": 2**25}  # bytes of /dev/shm: NCCL's channels in a node; gloo needs none
SHARED_MEMORY = Path("/dev/shm")
INFINIBAND = Path("/sys/class/infiniband")


def measure(station: Station) -> dict[str, Any]:
    """Limits of this process, bytes free in /dev/shm, cores that it may use."""
    found: dict[str, Any] = {
        "files": _limit(resource.RLIMIT_NOFILE),
        "locked": _limit(resource.RLIMIT_MEMLOCK),
        "processes": _limit(resource.RLIMIT_NPROC),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "infiniband": INFINIBAND.is_dir() and any(INFINIBAND.iterdir()),
    }
    if SHARED_MEMORY.is_dir():
        found["shared"] = shutil.disk_usage(SHARED_MEMORY).free
    return found


def judge(readings: list[RankReading], station: Station) -> Diagnosis:
    """The least of each, and which are too low."""
    diagnosis, least_shared = Diagnosis(), LEAST_SHARED[station.mesh.device.type]
    keys = ("files", "processes", "locked", "cores", "shared")
    least = {key: min(reading.values.get(key, 0) for reading in readings) for key in keys}
    diagnosis.measured.append(
        f"at least {_many(least['files'])} open files (limit {LEAST_FILES:,}), {_many(least['processes'])} processes "
        f"({LEAST_PROCESSES:,}), {least['cores']:,} cores a rank, {least['shared'] / 1e9:.2f} GB of /dev/shm free "
        f"({least_shared / 1e9:.2f}), {_many(least['locked'])} bytes locked"
    )
    tests = (
        (lambda each: each["files"] < LEAST_FILES, f"fewer than {LEAST_FILES:,} open files: raise ulimit -n"),
        (
            lambda each: each["processes"] < LEAST_PROCESSES,
            f"fewer than {LEAST_PROCESSES:,} processes and threads: raise ulimit -u",
        ),
        (
            lambda each: each["infiniband"] and each["locked"] < LEAST_LOCKED,
            "InfiniBand can't pin memory: set ulimit -l unlimited, for the scheduler's daemon as well",
        ),
        (
            lambda each: each.get("shared", 0) < least_shared,
            f"less than {least_shared / 1e9:.2f} GB of /dev/shm free: remove what is left there, or enlarge it (docker "
            "--shm-size)",
        ),
    )
    for is_low, text in tests:
        diagnosis.blame(one_of_each_host(each for each in readings if is_low(each.values)), text)
    return diagnosis


UNLIMITED = 2**53


def _limit(kind: int) -> int:
    soft = resource.getrlimit(kind)[0]
    return UNLIMITED if soft in (resource.RLIM_INFINITY, -1) else min(soft, UNLIMITED)


def _many(limit: int) -> str:
    return "any number of" if limit == UNLIMITED else f"{limit:,}"


CHECK = Check("limits", measure, judge)

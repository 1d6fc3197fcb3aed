"""The disk that all hosts share: its speed from each, whether all see the same files, and whether locks hold."""

from __future__ import annotations

import contextlib
import fcntl
import time
from pathlib import Path
from typing import Any

from trainer.doctor.check import Check, Diagnosis, Finding, RankReading, Station, hosts_of, name
from trainer.doctor.disk import judge_disks, use_disk
from trainer.machine.durable import problem_of

BYTES = 2**25
SEEN_S = 10.0  # that a new file may take to be seen elsewhere
LATE_S = 3.0


def measure(station: Station) -> dict[str, Any]:
    """As local_disk, and: seconds until rank 0's new file is here, whether rank 0's lock kept this host out.

    What fails on one rank must not keep it from the barriers.
    """
    mesh, token = station.mesh, station.folder / "token"
    lock_path = station.folder / "lock"
    found: dict[str, Any] = {}
    if mesh.is_main:
        found["problem"] = problem_of(lambda: _make(lock_path, token))
    mesh.barrier()
    if station.is_first_of_host:
        began = time.monotonic()
        while not token.exists() and time.monotonic() - began < SEEN_S:
            time.sleep(0.02)
        found["seen"] = time.monotonic() - began if token.exists() else None
    mesh.barrier()
    with contextlib.ExitStack() as held:
        if mesh.is_main:
            found["lock_problem"] = problem_of(lambda: _lock(held.enter_context(lock_path.open("ab"))))
        mesh.barrier()
        if station.is_first_of_host and found["seen"] is not None:
            with contextlib.ExitStack() as mine:
                found["kept_out"] = problem_of(lambda: _lock(mine.enter_context(lock_path.open("ab")))) is not None
        mesh.barrier()
    if station.is_first_of_host and found["seen"] is not None:
        found["disk"] = vars(use_disk(station.folder, BYTES, mesh.rank))
    mesh.barrier()
    return found


def _make(*paths: Path) -> None:
    for path in paths:
        path.write_text("here", encoding="utf-8")


def _lock(file: Any) -> None:
    """Takes an exclusive lock without waiting. OSError if it can't be had."""
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def judge(readings: list[RankReading], station: Station) -> Diagnosis:
    """Speeds, hosts that don't see what rank 0 writes, locks that don't hold."""
    own = [reading for reading in readings if "seen" in reading.values]
    disks = [RankReading(each.rank, each.host, each.values["disk"]) for each in own if "disk" in each.values]
    diagnosis = judge_disks(disks, station.config.doctor.least_free)
    if problem := readings[0].values.get("problem"):
        diagnosis.blame(readings[:1], f"{station.folder}: {problem}: make room, or mend it", among=readings)
        return diagnosis
    parent = station.folder.parent
    diagnosis.blame(
        [each for each in own if each.values["seen"] is None],
        f"{parent} isn't the disk that rank 0 writes to: give doctor.folder, and runs their run.dir, on a shared one",
    )
    seen = [each for each in own if each.values["seen"] is not None]
    longest = max((each.values["seen"] for each in seen), default=0.0)
    diagnosis.blame(
        [each for each in seen if each.values["seen"] > LATE_S],
        f"a new file is seen only after {longest:.1f} s: mount it with a shorter attribute cache (NFS: actimeo)",
    )
    problem = readings[0].values.get("lock_problem")
    open_doors = [each for each in seen if not each.values["kept_out"]]
    if problem or open_doors:
        why = problem or f"{name(open_doors)} got a lock that rank 0 holds"
        text = f"locks don't hold on {parent} ({why}): two jobs could write one run; mount it with flock"
        blamed = hosts_of(open_doors) if len(open_doors) < len(seen) else ()
        diagnosis.findings.append(Finding(text, blamed))
    elif seen:
        diagnosis.measured.append(
            f"locks hold; a new file is seen by all hosts within {longest * 1e3:.3g} ms (limit {LATE_S * 1e3:,.0f})"
        )
    return diagnosis


CHECK = Check("shared_disk", measure, judge)

"""A disk, by use: how fast a file is written, made safe and read, and how much room there is."""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from trainer.doctor.check import Diagnosis, RankReading, one_of_each_host, range_of_values
from trainer.machine.durable import REFUSALS

SMALL_FILES = 5
SLOW_FSYNC_S = 2.0


@dataclass(frozen=True)
class Disk:
    """GB/s of one large file, fsync included, and of reading it; seconds until a small one is safe; bytes free.

    What is read was just written: where the system keeps it in memory after all, it is faster than the disk.
    `problem` says why nothing could be measured.
    """

    folder: str
    write: float = 0.0
    read: float = 0.0
    fsync: float = 0.0
    free: int = 0
    problem: str | None = None


def use_disk(folder: Path, size: int, rank: int) -> Disk:
    """Writes and reads a file of `size` bytes in a folder, and removes it."""
    path = folder / f"banyan-doctor-{rank}-{uuid.uuid4().hex[:8]}"
    try:
        began = time.perf_counter()
        with path.open("xb") as file:
            block = os.urandom(2**20)
            for _ in range(size // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            written = time.perf_counter()
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        opened = time.perf_counter()
        with path.open("rb") as file:
            while file.read(2**20):
                pass
        read = time.perf_counter()
        fsyncs = [_small(path.with_suffix(f".{number}")) for number in range(SMALL_FILES)]
        return Disk(
            folder=str(folder),
            write=size / (written - began) / 1e9,
            read=size / (read - opened) / 1e9,
            fsync=sorted(fsyncs)[SMALL_FILES // 2],
            free=shutil.disk_usage(folder).free,
        )
    except OSError as error:
        reason = REFUSALS.get(error.errno or 0) or f"{errno.errorcode.get(error.errno or 0, '?')}: {error.strerror}"
        return Disk(folder=str(folder), problem=reason)
    finally:
        for left in (path, *(path.with_suffix(f".{number}") for number in range(SMALL_FILES))):
            left.unlink(missing_ok=True)


def _small(path: Path) -> float:
    began = time.perf_counter()
    with path.open("xb") as file:
        file.write(b"banyan")
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - began


def judge_disks(readings: list[RankReading], least_free: float) -> Diagnosis:
    """Of readings that hold a Disk each: the slowest, and those that can't be written or soon won't."""
    diagnosis, disks = Diagnosis(), {each.rank: Disk(**each.values) for each in readings}
    if well := [disk for disk in disks.values() if disk.problem is None]:
        speeds = [range_of_values([getattr(disk, key) for disk in well], "GB/s") for key in ("write", "read")]
        safe = f"a small file is safe after {max(disk.fsync for disk in well) * 1e3:.3g} ms at most"
        free = f"{min(disk.free for disk in well) / 1e9:.3g} GB free at least (limit {least_free:g})"
        diagnosis.measured.append(f"{well[0].folder}: each host writes {speeds[0]}, reads {speeds[1]}; {safe}; {free}")
    for reading in readings:
        if problem := disks[reading.rank].problem:
            diagnosis.blame([reading], f"{disks[reading.rank].folder}: {problem}")

    def those(wrong: str) -> list[RankReading]:
        is_wrong = {"full": lambda disk: disk.free < least_free * 1e9, "slow": lambda disk: disk.fsync > SLOW_FSYNC_S}
        found = [each for each in readings if not disks[each.rank].problem and is_wrong[wrong](disks[each.rank])]
        return one_of_each_host(found)

    folder = disks[readings[0].rank].folder if readings else ""
    diagnosis.blame(those("full"), f"{folder} is nearly full (less than {least_free:g} GB free): make room")
    diagnosis.blame(
        those("slow"),
        f"a small file takes more than {SLOW_FSYNC_S:g} s to be safe on {folder}: checkpoints will stall; choose "
        "another disk",
    )
    return diagnosis

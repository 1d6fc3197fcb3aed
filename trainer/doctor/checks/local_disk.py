"""Each host's own disk for temporary files: compilers, W&B and sockets of ranks need it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from trainer.doctor.check import Check, Diagnosis, RankReading, Station
from trainer.doctor.disk import judge_disks, use_disk

BYTES = 2**24


def measure(station: Station) -> dict[str, Any]:
    """What a file in the folder for temporary files shows; {} but for the first rank of each host."""
    if not station.is_first_of_host:
        return {}
    return vars(use_disk(Path(os.environ.get("TMPDIR") or "/tmp"), BYTES, station.mesh.rank))


def judge(readings: list[RankReading], station: Station) -> Diagnosis:
    """The slowest host, and those that can't write or soon won't."""
    return judge_disks([each for each in readings if each.values], station.config.doctor.least_free)


CHECK = Check("local_disk", measure, judge)

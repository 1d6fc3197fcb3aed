"""RUN/profile: traces of profiled steps, and the dearest operators of each rank, which pages show."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from trainer.machine.json_file import Count, Malformed, from_json, read_json

PROFILE = "profile"
TRACE = re.compile(r"steps-\d+-\d+/rank-\d{5,}\.(trace\.json\.gz|memory\.pickle)")
OPERATORS = re.compile(r"rank-(\d{5,})\.operators\.json")
MOST_OPERATORS = 40  # in a table
MOST_TABLES = 8  # that are read
MOST_BYTES = 1 << 20  # of one
MOST_NAMES = 200  # of files that are named


@dataclass(frozen=True)
class Operator:
    """An operator of torch's, or a kernel, over the profiled steps. Times in microseconds, memory in bytes."""

    name: str
    calls: Count
    self_cpu_us: float
    cpu_us: float
    self_device_us: float
    self_memory: float


@dataclass(frozen=True)
class Operators:
    """The dearest operators of a rank in steps FIRST to LAST, by their own time."""

    rank: Count
    steps: str
    device: str
    operators: list[Operator]


def trace_files(run_dir: Path) -> list[str]:
    """Traces and snapshots, relative to the folder of profiles."""
    root = run_dir / PROFILE
    found = [path.relative_to(root).as_posix() for path in sorted(root.glob("steps-*/rank-*"))[: 10 * MOST_NAMES]]
    return [name for name in found if TRACE.fullmatch(name)][:MOST_NAMES]


def read_operators(run_dir: Path) -> list[Operators]:
    """Tables of the newest profile, by rank; those that can't be read are left out."""
    folders = sorted((run_dir / PROFILE).glob("steps-*-*"), key=lambda folder: (folder.stat().st_mtime, folder.name))
    tables: list[Operators] = []
    for folder in folders[-1:]:
        for name in sorted(name for name in os.listdir(folder) if OPERATORS.fullmatch(name))[:MOST_TABLES]:
            try:
                tables.append(from_json(Operators, read_json(folder / name, most_bytes=MOST_BYTES)))
            except (OSError, Malformed):
                continue
    return tables

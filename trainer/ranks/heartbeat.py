"""Signs of life by files, RUN/heartbeats/rank-NNNNN: they need no process group, whose rank 0 may be the silent one.

Ages are told by the file system's clock, so the clocks of the machines don't matter.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from trainer.machine.durable import make_folder

_RECORD_BYTES = 768  # written at once and never shortened, so that no reader sees half of it
_ATTEMPTS = 3
_RETRY_S = 0.1


@dataclass(frozen=True)
class Heartbeat:
    """What a rank says of itself. `idle_s` is how long its training thread has not moved, `beats` how often it did so
    within `step`; `hung` says that it has noticed a hang and written its stacks; `call` is its last collective,
    in which it is where it `waits`."""

    rank: int
    host: str
    pid: int
    step: int
    phase: str
    beats: int
    patient: bool
    idle_s: float
    hung: bool = False
    call: str = ""
    waits: bool = False


@dataclass(frozen=True)
class Sign:
    """The last heartbeat of a rank, None if there is none to read, and its age in seconds."""

    rank: int
    heartbeat: Heartbeat | None
    age_s: float

    @property
    def idle_s(self) -> float:
        """How long the rank's training thread has not moved, as far as is known."""
        return self.age_s + (self.heartbeat.idle_s if self.heartbeat else 0.0)


class HeartbeatFiles:
    """The files of a run's ranks, of which this rank writes one."""

    def __init__(self, run_dir: Path, rank: int, world_size: int) -> None:
        self.folder = run_dir / "heartbeats"
        self._rank = rank
        self._world_size = world_size

    def clear(self) -> None:
        """Removes what an earlier start left. Rank 0 calls it before any rank writes."""
        shutil.rmtree(self.folder, ignore_errors=True)
        make_folder(self.folder)

    def write(self, heartbeat: Heartbeat) -> None:
        """Writes and touches this rank's file; a full disk only makes its content old."""
        record = json.dumps(asdict(heartbeat)).encode().ljust(_RECORD_BYTES)
        with contextlib.suppress(OSError):
            descriptor = os.open(self._path(self._rank), os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                with contextlib.suppress(OSError):
                    os.pwrite(descriptor, record, 0)
                os.utime(descriptor)
            finally:
                os.close(descriptor)

    def read(self, between: Callable[[], object] = lambda: None) -> list[Sign]:
        """The last sign of every rank; `between` is called before each. OSError if this rank's own file can't be
        touched: then nothing is known."""
        now, signs = self._now(), []
        for rank in range(self._world_size):
            between()
            signs.append(self._read(rank, now))
        return signs

    def read_rank(self, rank: int) -> Sign:
        """The last sign of one rank; OSError likewise."""
        return self._read(rank, self._now())

    def announce(self, report: str) -> str:
        """Leaves the report of a hang for all ranks, unless one has; returns the one that holds, the first."""
        with contextlib.suppress(OSError), (self.folder / "hang").open("x", encoding="utf-8") as file:
            file.write(report)
        return self.announced() or report

    def announced(self) -> str | None:
        """The report of a hang that some rank has left."""
        try:
            return (self.folder / "hang").read_text(encoding="utf-8") or None
        except OSError:
            return None

    def _now(self) -> float:
        """The time by the file system's clock."""
        own = self._path(self._rank)
        os.utime(own)
        return own.stat().st_mtime

    def _path(self, rank: int) -> Path:
        return self.folder / f"rank-{rank:05d}"

    def _read(self, rank: int, now: float) -> Sign:
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_RETRY_S)
            with contextlib.suppress(OSError, ValueError, TypeError), self._path(rank).open("rb") as file:
                # opening makes a network file system look again
                age_s = max(0.0, now - os.fstat(file.fileno()).st_mtime)
                return Sign(rank, Heartbeat(**json.load(file)), age_s)
        return Sign(rank, None, math.inf)

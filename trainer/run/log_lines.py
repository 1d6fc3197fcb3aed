"""The logs of all ranks of a run as one: entries by time, the first error, and what comes while it runs."""

from __future__ import annotations

import contextlib
import heapq
import os
import re
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from trainer.machine.json_file import Malformed, open_regular
from trainer.run.rank_log import STREAMS
from trainer.track.sinks.console import SHOWN

ENTRY = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) ([A-Z]+) ([^:\s]+): ?(.*)", re.DOTALL)
CRASH = "Fatal Python error"  # how faulthandler begins
ERRORS = ("ERROR", "CRITICAL")
TAIL_BYTES = 1 << 18  # of each log, for its last entries
LONGEST_ENTRY = 1 << 14  # characters of an entry that are kept
LONGEST_LINE = 1 << 16  # bytes
MOST_LOGS = 4096  # that are read
LAUNCHER = "launcher"
PRINTED = (*STREAMS, SHOWN.name)  # loggers of what a person was shown


@dataclass
class LogEntry:
    """What was logged at once: a line, and those that follow it without a time of their own."""

    time: float
    level: str
    logger: str
    text: str
    source: str = ""

    @property
    def is_error(self) -> bool:
        """Whether it tells of a failure."""
        return self.level in ERRORS

    def lines(self) -> list[str]:
        """It as it is shown: who, when, what."""
        moment = time.strftime("%m-%d %H:%M:%S", time.localtime(self.time)) if self.time else " " * 14
        level = "" if self.level == "INFO" or self.logger in PRINTED else f"{self.level} "
        first, *more = self.text.split("\n")
        return [
            f"{self.source:<9} {moment}  {level}{first}",
            *(f"{self.source:<9} {' ' * 14}  {line}" for line in more),
        ]


@dataclass
class LogFile:
    """One log, read on from where it was left; a log that was rotated away begins anew."""

    path: Path
    offset: int = 0
    _inode: int = 0
    _rest: bytes = b""
    _held: LogEntry | None = field(default=None)

    @property
    def source(self) -> str:
        """Whose it is: `rank 3`, or the launcher."""
        name = self.path.name.split(".")[0]
        return f"rank {int(name[5:])}" if re.fullmatch(r"rank-\d+", name) else LAUNCHER

    def read(self, *, tail_bytes: int | None = None) -> Iterator[LogEntry]:
        """The entries that have come since the last call; at first all, or those among the last bytes."""
        with contextlib.suppress(OSError, Malformed), open_regular(self.path) as file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self.offset:
                begins = max(0, status.st_size - tail_bytes) if tail_bytes is not None and self._inode == 0 else 0
                self.offset, self._inode, self._rest = begins, status.st_ino, b""
            file.seek(self.offset)
            while line := file.readline(LONGEST_LINE):
                self.offset += len(line)
                if not line.endswith(b"\n") and len(line) < LONGEST_LINE:
                    self._rest += line
                    break
                entry = self._take((self._rest + line).decode("utf-8", errors="replace").rstrip("\n"))
                self._rest = b""
                if entry is not None:
                    yield entry
        if self._held is not None:
            yield self._held
            self._held = None

    def _take(self, line: str) -> LogEntry | None:
        """The entry that a new line ends, if one begins with it."""
        found = ENTRY.match(line)
        if found is None and not line.startswith(CRASH):
            if self._held is None:
                self._held = LogEntry(0.0, "INFO", "", "", self.source)
            if len(self._held.text) < LONGEST_ENTRY:
                self._held.text = f"{self._held.text}\n{line}".lstrip("\n")
            return None
        before = self._held
        if found is None:
            self._held = LogEntry(before.time if before else 0.0, "ERROR", "", line, self.source)
        else:
            moment, thousandths, level, logger, text = found.groups()
            seconds = time.mktime(time.strptime(moment, "%Y-%m-%d %H:%M:%S")) + int(thousandths) / 1000
            self._held = LogEntry(seconds, level, logger, text[:LONGEST_ENTRY], self.source)
        return before


def open_logs(run_dir: Path) -> list[LogFile]:
    """The logs of the ranks and of the launcher, by rank."""
    with contextlib.suppress(OSError):
        names = sorted(name for name in os.listdir(run_dir / "logs") if re.fullmatch(r"(rank-\d+|launcher)\.log", name))
        return [LogFile(run_dir / "logs" / name) for name in names[:MOST_LOGS]]
    return []


def first_error(run_dir: Path, since: float) -> LogEntry | None:
    """The first error of any rank since a moment, of its process; where no rank told one, the launcher's."""
    told: LogEntry | None = None
    errors: list[LogEntry] = []
    for log in open_logs(run_dir):
        with contextlib.suppress(OSError):
            if log.path.stat().st_mtime < since:
                continue
        first = next((entry for entry in log.read() if entry.is_error and entry.time >= since), None)
        if first is not None and log.source == LAUNCHER:
            told = first
        elif first is not None:
            errors.append(first)
    if told is not None and "was killed" in told.text:
        return told  # its peers' errors tell of that alone
    return min(errors, key=lambda entry: entry.time, default=told)


def last_entries(logs: list[LogFile], count: int) -> list[LogEntry]:
    """The last entries of all logs together, by time. What comes later is read from where this ended."""
    parts = [list(deque(log.read(tail_bytes=TAIL_BYTES), maxlen=count)) for log in logs]
    merged = heapq.merge(*parts, key=lambda entry: entry.time)
    return list(deque(merged, maxlen=count))


def last_said(run_dir: Path, count: int) -> list[str]:
    """The last lines that rank 0 printed, or else logged."""
    log = next(iter(open_logs(run_dir)), None)
    logs = [each for each in open_logs(run_dir) if each.source == "rank 0"] or ([log] if log else [])
    if not logs:
        return []
    entries = list(deque(logs[0].read(tail_bytes=TAIL_BYTES), maxlen=1000))
    printed = [entry for entry in entries if entry.logger in PRINTED or entry.is_error]
    return [entry.text.split("\n")[0] for entry in (printed or entries)[-count:] if entry.text]

"""A trial's `banyan pretrain`: a process of its own, and what it appends to metrics.jsonl."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.rank_environment import MARKS
from trainer.machine.process import die_with
from trainer.track.sinks.journal import Row

STOP_GRACE_S = 120.0
"""How long a trial may take to end at a stop: a step, and a checkpoint."""

_ERROR = "banyan: "
_TAIL_BYTES = 65536


class Process:
    """`banyan pretrain ARGUMENTS`. It doesn't outlive the thread that started it, nor do its ranks."""

    def __init__(self, arguments: Sequence[str], *, config_dir: str | None, cwd: str | None, log: Path) -> None:
        options = ["--config-dir", config_dir] if config_dir else []
        environment = {name: value for name, value in os.environ.items() if name not in MARKS}
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "launch", "pretrain", *options, *arguments],
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with(os.getpid()),
            )
        self.was_asked = False

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """Asks it to checkpoint and end, once."""
        if not self.was_asked and self.exit_code is None:
            self.was_asked = True
            self._process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = STOP_GRACE_S) -> int:
        """Its exit code; it is killed where it takes too long."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            return self._process.wait()


class Follower:
    """New rows of a metrics.jsonl. A start that goes on cuts the file: rows that were seen aren't returned again."""

    def __init__(self, path: Path, *, after_step: int) -> None:
        self._path = path
        self._inode = self._read = 0
        self._after_step = after_step
        self._seen: set[tuple[int, tuple[str, ...]]] = set()

    def rows(self) -> list[Row]:
        """Whole rows since the last call, in the file's order."""
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._read:
                    self._inode, self._read = status.st_ino, 0
                file.seek(self._read)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._read += len(whole) + len(newline)
        return [row for line in whole.splitlines() if self._is_new(row := json.loads(line))]

    def _is_new(self, row: Row) -> bool:
        key = (row["step"], tuple(row))  # within a step no two rows have the same keys
        new = row["step"] > self._after_step and key not in self._seen
        self._seen.add(key)
        return new


def error_in(log: Path) -> str:
    """The last error that a process wrote to its log, or the log's last line."""
    with contextlib.suppress(OSError):
        text = log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")
        lines = [line for line in text.splitlines() if line.strip()]
        errors = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
        return (errors or lines or [""])[-1]
    return ""

"""Starts of one rank in a rehearsal: by a process that has imported everything and forks (launch/forked.py), so that
imports, the longest part of a short start, are there once."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from trainer.errors import BanyanError
from trainer.machine.process import die_with

END_S = 10.0  # in which what was killed has ended


class Forker:
    """As a context manager: what it has started ends with it. Commands are started one after the other."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._log = folder / f"forker-{rank}.log"
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                [sys.executable, "-P", "-m", "launch.forked", str(folder)],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with(os.getpid()),
            )

    def __enter__(self) -> Forker:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._server.kill()
        self._server.wait()

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], log: str, *, timeout_s: float) -> Forked:
        """Starts a `banyan` command, which prints to a file of the folder. BanyanError if that takes too long."""
        order = json.dumps({"arguments": [*arguments], "environment": {**environment}, "log": log})
        with contextlib.suppress(BrokenPipeError):  # it has ended, and answers nothing
            self._server.stdin.write(order.encode() + b"\n")  # type: ignore[union-attr]
        pid = self.answer(timeout_s)
        if pid is None:
            last = self._log.read_text(errors="replace").strip().splitlines()[-1:]
            raise BanyanError(f"couldn't be started: {last[0][:300] if last else f'nothing in {timeout_s:g} s'}")
        return Forked(self, pid)

    def answer(self, timeout_s: float) -> int | None:
        """The next number that the server says; None if it says none in time, or has ended."""
        assert self._server.stdout is not None
        if not select.select([self._server.stdout], [], [], timeout_s)[0]:
            return None
        line = self._server.stdout.readline()
        return int(line) if line else None


class Forked:
    """A command that was started."""

    def __init__(self, forker: Forker, pid: int) -> None:
        self._forker, self.pid = forker, pid
        self.exit_code: int | None = None

    def poll(self, timeout_s: float = 0.0) -> int | None:
        """The exit code, -n for signal n; None if it hasn't ended within `timeout_s`."""
        if self.exit_code is None:
            self.exit_code = self._forker.answer(timeout_s)
        return self.exit_code

    def kill(self) -> None:
        """By SIGKILL, with all that it has started, unless it has ended."""
        deadline = time.monotonic() + END_S
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.poll(deadline - time.monotonic())

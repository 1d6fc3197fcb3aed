"""The ranks of one job on this machine: started together, signalled together, ended together.

None outlives the launcher, even one killed by SIGKILL. What is reported is the first failure, not the last.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

from launch import failure
from launch.failure import Failure
from launch.rank_output import ErrorFile, FolderFile, Tail
from trainer.errors import STOPPED
from trainer.machine.interrupt import Interrupted
from trainer.machine.process import RUN_FOLDER_VARIABLE, die_with

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

_POLL_S = 0.02


@dataclass(frozen=True)
class ExitStatus:
    """How a job's ranks ended: the exit code, and the first failure with `output`, the end of what that rank printed.

    `output` is empty where the failure's message says all, and for rank 0, whose output was seen already.
    """

    exit_code: int
    failure: Failure | None = None
    output: str = ""

    def show(self) -> None:
        """Prints the failure, if there is one, to stderr."""
        if self.output:
            print(self.output, file=sys.stderr)
        if self.failure is not None:
            self.failure.show()


@dataclass
class Rank:
    """One process, where it reports why it failed, and the end of what it prints; rank 0 prints to the terminal."""

    number: int
    process: subprocess.Popen[bytes]
    errors: ErrorFile
    folder: FolderFile
    tail: Tail | None = None
    ended_at: float | None = None
    signals_sent: int = 0
    ended_with: set[signal.Signals] = field(default_factory=set)
    reported: Failure | None = None

    def end(self, number: signal.Signals) -> None:
        """Ends it by a signal, whatever is left of its process group too where that is SIGKILL."""
        self.ended_with.add(number)
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)

    @property
    def stopped_by_us(self) -> bool:
        """Whether it ended because it was asked to; not so if it died of another signal than it was sent.

        A killed rank closes its sockets before it can be waited for: peers may fail first, and it be asked to end then.
        """
        code = self.process.returncode
        return bool(self.ended_with) and (code is None or code >= 0 or -code in self.ended_with)

    def poll(self) -> bool:
        """Whether it still runs; notes the time of its end."""
        if self.ended_at is None and self.process.poll() is not None:
            self.ended_at = time.time()
        return self.ended_at is None

    def failed(self) -> bool:
        """Whether it has failed, be it ended or still about to."""
        return self.process.returncode not in (None, 0, STOPPED) or self.has_reported()

    def has_reported(self) -> bool:
        """Whether it has reported why it failed."""
        if self.reported is None:
            self.reported = self.errors.read()
        return self.reported is not None

    def was_killed(self) -> bool:
        """Whether it died of a signal for which no peer's failure can be to blame, as one can for an abort."""
        code = self.process.returncode or 0
        return code < 0 and code != -signal.SIGABRT and not self.stopped_by_us and not self.has_reported()

    def failure(self, forwarded: Collection[int] = ()) -> Failure | None:
        """Why it failed, if it did of its own accord; `forwarded` are the signals that the job got."""
        if self.has_reported():
            return self.reported
        if self.stopped_by_us or not self.failed():
            return None
        code, at = self.process.returncode, self.ended_at or time.time()
        if code > 0:
            return Failure(at, self.number, code, f"rank {self.number} ended with exit code {code}.")
        if -code in forwarded:
            return Failure(at, self.number, 128 - code, str(Interrupted(-code)), kind=Interrupted.__name__)
        hint = " (the kernel does that when memory runs out)" if code == -signal.SIGKILL else ""
        message = f"rank {self.number} was killed by {signal.Signals(-code).name}{hint}."
        return Failure(at, self.number, 128 - code, message)

    def output(self) -> str:
        """The end of what it printed; rank 0's is on the terminal already."""
        return self.tail.text() if self.tail is not None else ""


class RankGroup:
    """Runs `command` once per environment, whose RANK is the rank's number."""

    def __init__(self, command: Sequence[str], environments: Sequence[Mapping[str, str]], stop_grace_s: float) -> None:
        self._command = command
        self._environments = environments
        self._stop_grace_s = stop_grace_s
        self._ranks: list[Rank] = []
        self._received: list[int] = []
        self._began = time.time()

    def run(self) -> int:
        """Runs the ranks to their end, shows the first failure, returns the exit code.

        Signals to this process go to every rank, those yet to start as well.
        """
        with self._forwarding():
            status = self.attend()
        status.show()
        return status.exit_code

    def attend(self) -> ExitStatus:
        """Starts the ranks and waits until all have ended. The calling thread must live on: they die with it."""
        try:
            self._start()
            self._wait()
        finally:
            self._kill()
        status = self._status()
        self._keep(status)
        for rank in self._ranks:
            rank.errors.close()
            rank.folder.close()
        return status

    def send(self, number: int) -> None:
        """Sends a signal to every rank, those yet to start as well."""
        self._received.append(number)
        self._deliver()

    def _start(self) -> None:
        for environment in self._environments:
            self._ranks.append(_spawn(self._command, environment))
            self._deliver()

    def _wait(self) -> None:
        while self._running():
            if any(rank.failed() for rank in self._ranks):
                self._stop()
                break
            time.sleep(_POLL_S)

    def _running(self) -> list[Rank]:
        return [rank for rank in self._ranks if rank.poll()]

    def _stop(self) -> None:
        """Ends what runs: by SIGTERM, then by SIGKILL, since a rank that waits for a dead peer never hears SIGTERM."""
        for rank in self._running():
            rank.end(signal.SIGTERM)
        deadline = time.monotonic() + self._stop_grace_s
        while self._running() and time.monotonic() < deadline:
            time.sleep(_POLL_S)

    def _kill(self) -> None:
        for rank in self._running():
            rank.end(signal.SIGKILL)
            rank.process.wait()

    def _status(self) -> ExitStatus:
        failures = [(rank, found) for rank in self._ranks if (found := rank.failure(self._received))]
        if failures:
            rank, found = min(failures, key=lambda pair: (not pair[0].was_killed(), pair[1].time))
            output = rank.output() if found.traceback or not rank.has_reported() else ""
            return ExitStatus(found.exit_code, found, output)
        return ExitStatus(STOPPED if any(rank.process.returncode == STOPPED for rank in self._ranks) else 0)

    def _keep(self, status: ExitStatus) -> None:
        """Leaves a failure in the run directory, if the ranks had entered one."""
        folder = next(filter(None, (rank.folder.read() for rank in self._ranks)), None)
        if status.failure is not None and folder is not None:
            failure.keep(status.failure, folder, output=status.output, began=self._began)

    @contextlib.contextmanager
    def _forwarding(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._forward) for number in FORWARDED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        self.send(number)

    def _deliver(self) -> None:
        for rank in self._ranks:
            missed, rank.signals_sent = self._received[rank.signals_sent :], len(self._received)
            for number in missed:
                rank.process.send_signal(number)


def _spawn(command: Sequence[str], environment: Mapping[str, str]) -> Rank:
    """Starts a rank in a session of its own, so that Ctrl-C reaches it once: from us."""
    number = int(environment["RANK"])
    errors, folder, tail = ErrorFile(), FolderFile(), Tail() if number else None
    with tail or contextlib.nullcontext() as output:
        process = subprocess.Popen(
            command,
            env={**environment, failure.FILE_VARIABLE: str(errors.path), RUN_FOLDER_VARIABLE: str(folder.path)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=die_with(os.getpid()),
        )
    return Rank(number, process, errors, folder, tail)

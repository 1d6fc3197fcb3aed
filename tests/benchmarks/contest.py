"""Runs contestants side by side: each a process, or one for each rank, that trains only in its turn.

Turns are short and go round, so that a machine's moods hit all alike. A contestant that fails, or isn't installed, is
reported by name.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.rank_environment import for_rank, for_threads
from tests.benchmarks.case import Case
from tests.benchmarks.turns import REPORT
from trainer.machine.host import free_port

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "build" / "peers"


class ContestantError(Exception):
    """A contestant that didn't get through; the message is a line."""


@dataclass
class Contestant:
    """One of those measured: `module` of tests.benchmarks.contestants in `tree`, by the Python of `peer` or ours."""

    name: str
    module: str
    options: dict[str, str] = field(default_factory=dict)
    peer: str | None = None
    tree: Path = ROOT

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return PEERS / self.peer / "bin" / "python" if self.peer else Path(sys.executable)

    @property
    def missing(self) -> str | None:
        """Why it can't be measured here, or None."""
        if self.peer is None or (PEERS / self.peer / ".ready").exists():
            return None
        return f"not installed: tests/benchmarks/peers.sh {self.peer}"


@dataclass
class Measured:
    """Seconds per step of each turn; or why there are none. Until they are warm, contestants share the cores."""

    name: str
    seconds: list[float] = field(default_factory=list)
    until_warm_s: float | None = None
    memory_bytes: int | None = None
    failure: str | None = None


class Running:
    """A contestant's processes."""

    def __init__(self, contestant: Contestant, case: Case, folder: Path) -> None:
        self.name = contestant.name
        self.heard: list[dict[str, Any]] = []  # what the ranks reported last
        self._logs: list[Path] = []
        self._processes: list[subprocess.Popen[str]] = []
        self._reports: list[int] = []
        port = free_port()
        command = [str(contestant.python), "-P", "-m", f"tests.benchmarks.contestants.{contestant.module}"]
        command += [case.to_json(), str(folder), json.dumps(contestant.options)]
        for rank in range(case.ranks):
            log = folder / f"{contestant.name.replace(' ', '-')}-{rank}.log"
            reports, report = os.pipe()
            with log.open("w") as output:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=(report,),
                    text=True,
                    env=_environment(contestant, case, rank, port) | {REPORT: str(report)},
                    cwd=folder,
                )
            os.close(report)
            self._logs.append(log)
            self._processes.append(process)
            self._reports.append(reports)

    def take_turn(self, steps: int, timeout_s: float) -> tuple[float, int | None]:
        """Seconds that `steps` took, by the slowest rank, and the peak of GPU memory."""
        for process in self._processes:
            assert process.stdin is not None
            try:
                process.stdin.write(f"{steps}\n")
                process.stdin.flush()
            except BrokenPipeError as error:
                raise ContestantError(self._last_words()) from error
        return self.hear(timeout_s)

    def hear(self, timeout_s: float) -> tuple[float, int | None]:
        """What all ranks report next: seconds of the slowest, and the peak of GPU memory."""
        deadline = time.monotonic() + timeout_s
        self.heard = [json.loads(self._read(report, deadline)) for report in self._reports]
        return max(report["seconds"] for report in self.heard), self.heard[0]["memory_bytes"]

    def end(self) -> None:
        """Ends the processes; those that don't go are killed."""
        for process in self._processes:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for report in self._reports:
            os.close(report)

    def _read(self, report: int, deadline: float) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([report], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise ContestantError("no answer in time")
            piece = os.read(report, 4096)
            if not piece:
                raise ContestantError(self._last_words())
            line += piece
        return line

    def _last_words(self) -> str:
        """The line of a log that says most about how a process ended."""
        for log in self._logs:
            lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
            memory = [line for line in lines if "out of memory" in line.lower()]
            if memory:
                return "out of memory"
            errors = [line for line in lines if line.partition(":")[0].endswith(("Error", "Exception"))]
            if errors or lines:
                return (errors or lines)[-1][:160]
        return "ended without a word"


def _environment(contestant: Contestant, case: Case, rank: int, port: int) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "PYTHONPATH")}
    environment |= for_threads(case.ranks, case.threads, environment) | for_rank(rank, case.ranks, port)
    environment |= {"PYTHONPATH": str(contestant.tree), "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment |= {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
    if case.device == "cpu":
        environment |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    return environment


def compete(
    contestants: Sequence[Contestant], case: Case, folder: Path, *, rounds: int, steps: int, timeout_s: float = 300.0
) -> list[Measured]:
    """Every contestant's turns: `rounds` of `steps` steps each, forwards and backwards through the list in turn."""
    results = {contestant.name: Measured(contestant.name, failure=contestant.missing) for contestant in contestants}
    running: dict[str, Running] = {}
    try:
        began = time.perf_counter()
        for contestant in contestants:
            if contestant.missing is None:
                running[contestant.name] = Running(contestant, case, folder)
        for name in list(running):
            if _attempt(results[name], running, lambda one: one.hear(timeout_s)) is not None:
                results[name].until_warm_s = time.perf_counter() - began
        for number in range(rounds):
            for name in list(running)[:: 1 if number % 2 == 0 else -1]:
                taken = _attempt(results[name], running, lambda one: one.take_turn(steps, timeout_s))
                if taken is not None:
                    results[name].seconds.append(taken[0] / steps)
                    results[name].memory_bytes = taken[1]
    finally:
        for one in running.values():
            one.end()
    return list(results.values())


def _attempt(result: Measured, running: dict[str, Running], work) -> tuple[float, int | None] | None:
    """What `work` returns of a contestant; one that fails is out, with the reason."""
    try:
        return work(running[result.name])
    except ContestantError as error:
        result.failure = str(error)
        result.seconds.clear()
        running.pop(result.name).end()
        return None

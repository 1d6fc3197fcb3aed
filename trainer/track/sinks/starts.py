"""starts.jsonl: each start of a run, and how it ended. Nothing of it is ever cut off: what a kill undid is told by it.

    {"kind": "start", "time": …, "host": …, "pid": …, "step": 20, "logged": 26, "ranks": 2, "layout": {…}, …}
    {"kind": "end", "time": …, "pid": …, "step": 40, "exit_code": 85, "reason": "signal"}
    {"kind": "failure", "time": …, "rank": 1, "exit_code": 137, "reason": "rank 1 was killed by SIGKILL."}

A start without an end was killed. `failure` is what a launcher says of the ranks that it started.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from trainer.errors import STOPPED, InputError, StorageError
from trainer.machine.credentials import masked
from trainer.machine.json_file import Count, Malformed, Within, from_known, parse_json, read_json
from trainer.track.sinks.journal import Journal, Row, last_rows
from trainer.track.sinks.sink import Sink, Start

FILE = "starts.jsonl"
MOST_BYTES = 4 << 20  # that are read, from the end
LONGEST_REASON = 2000  # characters
START, END, FAILURE = "start", "end", "failure"
FINISHED, FAILED = "finished", "failed"
JOBS = (("slurm", "SLURM_JOB_ID"), ("ray", "RAY_SUBMISSION_ID"), ("ray", "RAY_JOB_ID"))
ExitCode = Annotated[int, Within(-255, 255)]


@dataclass(frozen=True)
class RunStart:
    """A start: where, as what, and after which step. `logged` is the last step that was logged before it."""

    time: float = 0.0
    host: str = ""
    pid: Count = 0
    step: Count = 0
    logged: Count = 0
    total_steps: Count = 0
    ranks: Count = 1
    device: str = ""
    launcher: str = ""
    job: str = ""
    layout: dict[str, Any] = field(default_factory=dict)
    git_commit: str | None = None

    @property
    def lost_steps(self) -> int:
        """Steps of the start before that had been logged and had to be taken again."""
        return max(0, self.logged - self.step)


@dataclass(frozen=True)
class RunEnd:
    """How a start ended. A launcher's `rank` is the one that failed first, `began` when it started the ranks."""

    time: float = 0.0
    exit_code: ExitCode = 0
    reason: str = ""
    step: Count | None = None
    pid: Count | None = None
    rank: Count | None = None
    began: float | None = None


@dataclass(frozen=True)
class Life:
    """A start, its end as rank 0 told it, and what its launcher said; None where nobody did."""

    start: RunStart
    end: RunEnd | None = None
    failure: RunEnd | None = None

    @property
    def reason(self) -> str:
        """Why it ended, in a line; empty where nobody said so: it goes on, or was killed with its launcher."""
        told = self.failure or self.end
        return told.reason if told is not None else ""

    def takes(self, failure: RunEnd) -> bool:
        """Whether a failure is of this start: the first that is said of it, not of one that was refused later."""
        later = failure.began is not None and failure.began > self.start.time
        went_well = self.end is not None and self.end.exit_code in (0, STOPPED)
        return self.failure is None and not later and not went_well

    @property
    def ended(self) -> bool:
        """Whether somebody said that it ended."""
        return self.end is not None or self.failure is not None


class StartsSink(Sink):
    """Writes a start when it is opened, and its end when it is closed."""

    def __init__(self, start: Start) -> None:
        self._run_dir = start.run_dir
        self._step = start.start_step
        append_record(start.run_dir, START, asdict(_describe(start)))

    def row(self, row: Row) -> None:
        """Remembers the step."""
        self._step = row["step"]

    def progress(self, step: int) -> None:
        """Remembers the step."""
        self._step = step

    def close(self, *, exit_code: int, summary: Mapping[str, Any]) -> None:
        """Writes how it ended; the exception under way is the reason of a failure."""
        end = RunEnd(time.time(), exit_code, self._reason(exit_code), step=self._step, pid=os.getpid())
        append_record(self._run_dir, END, asdict(end))

    def _reason(self, exit_code: int) -> str:
        if exit_code == STOPPED:
            try:
                return f"stopped: {read_json(self._run_dir / 'stopped.json')['reason']}"
            except (OSError, ValueError, LookupError, TypeError):
                return "stopped"
        if exit_code == 0:
            return FINISHED
        error = sys.exception()
        return FAILED if error is None else one_reason(f"{type(error).__name__}: {error}")


def open_sink(start: Start, say: Callable[[str], None]) -> Sink:
    """The record of this start. To be opened before the journal is cut to the step that the run goes on from."""
    return StartsSink(start)


def record_failure(
    run_dir: Path, *, at: float, rank: int, exit_code: int, reason: str, began: float | None = None
) -> None:
    """What a launcher says of ranks that it started; nothing where the run hasn't begun, or its disk refuses."""
    if (run_dir / FILE).is_file():
        failure = RunEnd(at, exit_code, one_reason(reason), rank=rank, began=began)
        try:
            append_record(run_dir, FAILURE, asdict(failure))
        except (StorageError, InputError):
            return  # it has been printed


def one_reason(text: str) -> str:
    """A reason in one line, masked and bounded."""
    return masked(" ".join(text.split()))[:LONGEST_REASON]


def append_record(run_dir: Path, kind: str, values: Mapping[str, Any]) -> None:
    """A line of starts.jsonl."""
    path = run_dir / FILE
    journal = Journal(path)
    try:
        if not journal.is_whole:  # the disk was full, or the power failed
            journal.end_line()
        journal.write({"kind": kind, **{key: value for key, value in values.items() if value is not None}})
    finally:
        journal.close()


def read_lives(run_dir: Path) -> list[Life]:
    """The starts of a run with their ends, in order; none of a run that an earlier version made.

    InputError where the file isn't what a run writes; a torn line is left out.
    """
    path = run_dir / FILE
    lives: list[Life] = []
    try:
        for record in last_rows(path, most_bytes=MOST_BYTES, parse=_parse):
            kind = record.pop("kind", None)
            if kind == START:
                lives.append(Life(from_known(RunStart, record)))
            elif kind == END and lives and lives[-1].end is None:
                lives[-1] = dataclasses.replace(lives[-1], end=from_known(RunEnd, record))
            elif kind == FAILURE and lives:
                failure = from_known(RunEnd, record)
                if lives[-1].takes(failure):
                    lives[-1] = dataclasses.replace(lives[-1], failure=failure)
    except Malformed as error:
        raise InputError(f"{path}: {error}. Remove that line, or the file.") from error
    return lives


def _parse(line: bytes) -> dict[str, Any]:
    record = parse_json(line)
    if not isinstance(record, dict):
        raise Malformed("a line isn't an object")
    return record


def _describe(start: Start) -> RunStart:
    config, facts = start.config, start.facts
    launcher, job = next(((name, os.environ[key]) for name, key in JOBS if os.environ.get(key)), ("", ""))
    parallel = config.parallel
    layout = {
        "zero_stage": parallel.zero_stage,
        "tensor": parallel.tensor,
        "sequence": parallel.sequence,
        "precision": config.train.precision,
        "batch_size": config.train.batch_size,
        "micro_batch_size": config.train.micro_batch_size,
    }
    if parallel.offload != "none":
        layout["offload"] = parallel.offload
    return RunStart(
        time=round(time.time(), 3),
        host=platform.node(),
        pid=os.getpid(),
        step=start.start_step,
        logged=max((int(row["step"]) for row in start.metrics.last_rows()), default=0),
        total_steps=start.total_steps,
        ranks=int(facts.get("world_size", 1)),
        device=str(facts.get("device", "")),
        launcher=launcher or config.launch.name,
        job=job,
        layout=layout,
        git_commit=facts.get("git_commit"),
    )

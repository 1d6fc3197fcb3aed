"""Whether a run waits in a queue: what SLURM says of its jobs, or what a driver on Ray has said when it found no room.

Of a job it is known what it waits for and until when, or for how long it may still run. squeue is asked once for all
runs that are looked at. Where there is none, as on a laptop that sees the folder, or it doesn't answer, nothing is
known of jobs, and the rest is told all the same.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from trainer.errors import InputError
from trainer.machine.durable import write_json
from trainer.machine.json_file import from_json, read_json
from trainer.run import directory as run_directory
from trainer.run.lock import Holder
from trainer.track.sinks.starts import Life, read_lives

FILE = "submitted.json"  # in the run directory: the jobs that were submitted last
LAUNCHER = "slurm"
FORMAT = "%i|%T|%r|%N|%S|%L"  # job, state, why it waits, nodes, start (expected), left of its time limit
ANSWER_S = 10.0  # longest wait for squeue
MOST_JOBS = 1000
WAITING, RUNNING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"), ("RUNNING", "CONFIGURING")
_LEFT = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)")


@dataclass(frozen=True)
class Submitted:
    """Jobs that were submitted for a run, those of a chain in order; or a driver that `waits`, and for what."""

    jobs: list[str]
    time: float = 0.0
    waits: str = ""
    driver: Holder | None = None


@dataclass(frozen=True)
class QueuedJob:
    """A job in SLURM's queue. `starts` is unix seconds, `seconds_left` what is left of a running one's time limit."""

    job: str
    state: str
    why: str = ""
    nodes: str = ""
    starts: float | None = None
    seconds_left: float | None = None

    @property
    def waits(self) -> bool:
        """Whether it waits for nodes, not to run on some."""
        return self.state in WAITING


def record_submission(run_dir: Path, jobs: Sequence[str]) -> None:
    """Keeps the numbers of jobs that were submitted for a run."""
    write_json(run_dir / FILE, {"jobs": [*jobs], "time": round(time.time(), 3)})


def record_waiting(run_dir: Path, job: str, waits: str) -> None:
    """Keeps that this process waits for room to start a run's ranks in; `job` is its own, if it is one."""
    run_directory.create(run_dir)
    submitted = Submitted([job] if job else [], round(time.time(), 3), waits, Holder.myself())
    write_json(run_dir / FILE, asdict(submitted))


def end_waiting(run_dir: Path) -> None:
    """Forgets it: nobody waits any more."""
    (run_dir / FILE).unlink(missing_ok=True)


def waits_for_room(run_dir: Path, lives: Sequence[Life]) -> str:
    """What a driver waits for since the last start, in words; empty where none does, or its process is gone."""
    submitted = read_submitted(run_dir)
    if submitted is None or not submitted.waits or (lives and lives[-1].start.time > submitted.time):
        return ""
    driver = submitted.driver
    if driver is not None and driver.is_local and driver.has_ended():
        return ""
    job = f"job {submitted.jobs[0]} waits" if submitted.jobs else "it waits"
    return f"{job} for room: {submitted.waits}"


def read_submitted(run_dir: Path) -> Submitted | None:
    """What was submitted last; None where nothing was, or the file isn't what a launcher writes."""
    with contextlib.suppress(OSError, ValueError):
        return from_json(Submitted, read_json(run_dir / FILE))
    return None


def jobs_of_run(run_dir: Path, lives: Sequence[Life]) -> list[str]:
    """The numbers of the run's last jobs: those that were submitted, and that of its last start."""
    submitted = read_submitted(run_dir)
    jobs = [*submitted.jobs] if submitted is not None and not submitted.waits else []
    if lives and lives[-1].start.launcher == LAUNCHER:
        jobs.append(lives[-1].start.job)
    return [job for job in dict.fromkeys(jobs) if re.fullmatch(r"\d{1,12}", job)]


def look_up(run_dirs: Iterable[Path]) -> dict[Path, QueuedJob]:
    """By run, the job of it that runs, or else the first that waits; runs without one are left out."""
    wanted: dict[Path, list[str]] = {}
    for run_dir in run_dirs:
        with contextlib.suppress(InputError):  # read_status says so
            wanted[run_dir] = jobs_of_run(run_dir, read_lives(run_dir))
    known = ask_squeue([job for jobs in wanted.values() for job in jobs])
    found = {}
    for run_dir, jobs in wanted.items():
        queued = sorted((known[job] for job in jobs if job in known), key=lambda each: each.waits)
        if queued:
            found[run_dir] = queued[0]
    return found


def ask_squeue(jobs: Sequence[str]) -> dict[str, QueuedJob]:
    """What the queue has of these jobs, by number. Those that have ended are left out."""
    if not jobs:
        return {}
    command = ["squeue", "--noheader", f"--jobs={','.join(jobs[:MOST_JOBS])}", f"--format={FORMAT}"]
    try:
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=ANSWER_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    found = filter(None, map(as_job, answer.stdout.splitlines()))
    return {job.job: job for job in found if job.state in WAITING + RUNNING}


def as_job(line: str) -> QueuedJob | None:
    """A line of squeue in FORMAT; None of any other."""
    fields = line.strip().split("|")
    if len(fields) != 6:
        return None
    job, state, why, nodes, starts, left = fields
    begins = None
    with contextlib.suppress(ValueError, OverflowError):
        begins = time.mktime(time.strptime(starts, "%Y-%m-%dT%H:%M:%S"))
    return QueuedJob(
        job, state, "" if why == "None" else why, nodes, begins, seconds_left_of(left) if state in RUNNING else None
    )


def seconds_left_of(left: str) -> float | None:
    """A time as squeue writes it, D-HH:MM:SS, HH:MM:SS or MM:SS; None for UNLIMITED and the like."""
    found = _LEFT.fullmatch(left)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)

"""A job of a verb whose exit code is an answer: here in an allocation that there is, else submitted and waited for."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from launch.slurm import site

ALIVE = (
    "PENDING",
    "CONFIGURING",
    "RUNNING",
    "COMPLETING",
    "SUSPENDED",
    "RESIZING",
    "STAGE_OUT",
    "STOPPED",
    "SIGNALING",
)
POLL_S, LOOK_S = 0.3, 2.0  # between looks at the log, and at the job
END_S = 20.0  # that srun may take to end its ranks
LOG_S = 10.0  # in which the log's end is to be seen here: on a network's disk it may come late


def run_in_allocation(script: Path, tasks_per_node: int) -> int:
    """Runs the script as salloc's shell, or a batch script of the user's, would; its exit code."""
    variables = {**os.environ, "BANYAN_TASKS_PER_NODE": str(tasks_per_node)}
    running = subprocess.Popen(["bash", str(script)], env=variables, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        return running.wait()
    except BaseException:
        os.killpg(running.pid, signal.SIGTERM)  # srun, which ends the ranks, too
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(END_S)
        raise


def follow(job: str, log: Path) -> int:
    """Prints a job's log as it grows, until the job has ended; its exit code. `sbatch --wait` would look at it twice a
    minute. A job that nobody waits for any more, since this was interrupted, is cancelled."""
    printed, looked = 0, time.monotonic()
    try:
        while True:
            printed = _print_from(log, printed)
            if time.monotonic() - looked > LOOK_S:
                looked = time.monotonic()
                if (code := _exit_code(job)) is not None:
                    break
            time.sleep(POLL_S)
    except BaseException:
        site.ask(["scancel", job], f"job {job} can't be cancelled")
        raise
    deadline = time.monotonic() + LOG_S
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(POLL_S)
    _print_from(log, printed)
    return code


def _exit_code(job: str) -> int | None:
    """Of a job that has ended: its script's, or 1 where SLURM ended it. None while it waits or runs."""
    text = site.ask(["scontrol", "--oneliner", "show", "job", job], f"job {job}")
    about = dict(word.split("=", 1) for word in text.split() if "=" in word)
    if about["JobState"] in ALIVE:
        return None
    code, _, signalled = about["ExitCode"].partition(":")
    return 1 if signalled != "0" or (code == "0" and about["JobState"] != "COMPLETED") else int(code)


def _print_from(log: Path, begin: int) -> int:
    """Prints what stands after the first `begin` bytes; how many there are now."""
    try:
        with log.open("rb") as file:
            file.seek(begin)
            _copy(file)
            return file.tell()
    except OSError:
        return begin


def _copy(file: BinaryIO) -> None:
    sys.stdout.flush()
    shutil.copyfileobj(file, sys.stdout.buffer)
    sys.stdout.flush()


def is_allocation(environment: Mapping[str, str]) -> bool:
    """Whether this runs in an allocation: of salloc, or in a batch script."""
    return "SLURM_JOB_ID" in environment

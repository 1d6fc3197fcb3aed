"""A job of a verb whose exit code is an answer: here in an allocation that there is, else submitted and waited for."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from launch.slurm import site
from trainer.errors import BanyanError

POLL_S = 0.3
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


def submit_and_follow(script: Path, log_of: Callable[[str], Path], announce: Callable[[str], None]) -> int:
    """Submits the script and prints its log as it grows, until the job has ended; its exit code.

    A job that nobody waits for any more, since this was interrupted, is cancelled.
    """
    command = ["sbatch", "--parsable", "--wait", str(script)]
    # In a session of its own: Ctrl-C is for this process, which then cancels the job.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as waiting:
        assert waiting.stdout is not None
        job = waiting.stdout.readline().strip().split(";")[0]
        if not job:
            raise BanyanError(f"sbatch submitted nothing: exit code {waiting.wait()}.")
        announce(job)
        try:
            return _follow(waiting, log_of(job))
        except BaseException:
            site.ask(["scancel", job], f"job {job} can't be cancelled")
            waiting.kill()
            raise


def _follow(waiting: subprocess.Popen[str], log: Path) -> int:
    printed = 0
    while waiting.poll() is None:
        printed = _print_from(log, printed)
        time.sleep(POLL_S)
    deadline = time.monotonic() + LOG_S
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(POLL_S)
    _print_from(log, printed)
    return waiting.returncode


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

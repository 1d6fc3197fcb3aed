"""A forked child that runs one command of `banyan` within limits, and what became of it."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import faulthandler
import os
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import guard
from tests.fuzz.mutate_values import SECRET_VARIABLE

MEMORY_BYTES = 2**30  # more than the forking process has
CPU_S = 20
IDLE_S = 15.0
IDLE_CPU_S = 0.3
"""A child that takes less processor time than that in IDLE_S waits for something."""
FILE_BYTES = 2**28
SECRET = "PLANTED-SECRET-7c1f"
"""In the environment, and in a file outside: no output may have it."""


@dataclass(frozen=True)
class Ending:
    """How a child ended: its exit code (negative: the signal), what it printed, what the guard heard, where it hung."""

    code: int
    stdout: str
    stderr: str
    heard: tuple[str, ...]
    stack: str
    seconds: float
    cpu_s: float
    timed_out: bool


def run(
    work: Callable[[], int], *, case: Path, cwd: Path, home: Path, reports: Path, forbidden: tuple[str, ...] = ()
) -> Ending:
    """Forks, runs `work`, waits. The caller has a single thread."""
    began = time.monotonic()
    child = os.fork()
    if not child:
        _be_child(work, case, cwd, home, reports, forbidden)
    status, usage, timed_out = _wait(child)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it may have started
    return Ending(
        code=os.waitstatus_to_exitcode(status),
        stdout=_read(reports / "stdout"),
        stderr=_read(reports / "stderr"),
        heard=tuple(dict.fromkeys(_read(reports / "heard").splitlines())),
        stack=_read(reports / "stack"),
        seconds=time.monotonic() - began,
        cpu_s=usage.ru_utime + usage.ru_stime,
        timed_out=timed_out,
    )


def _read(path: Path) -> str:
    with open(path, "rb") as file:
        return file.read(2**22).decode("utf-8", "backslashreplace")


def _wait(child: int) -> tuple[int, resource.struct_rusage, bool]:
    """Waits for the end of a child, or brings it about once it does nothing; on a busy machine, clocks say little."""
    looked, worked = time.monotonic(), 0.0
    asked = 0
    pause = 0.001
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            return status, usage, asked > 0
        if time.monotonic() - looked > (2 if asked else IDLE_S):
            now = _cpu_s(child)
            if now - worked < IDLE_CPU_S:
                os.kill(child, signal.SIGKILL if asked else signal.SIGXCPU)  # that one prints where it is
                asked += 1
            looked, worked = time.monotonic(), now
        time.sleep(pause)
        pause = min(0.02, pause * 1.3)


def _cpu_s(child: int) -> float:
    fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _be_child(
    work: Callable[[], int], case: Path, cwd: Path, home: Path, reports: Path, forbidden: tuple[str, ...]
) -> None:
    code = 99
    try:
        os.setsid()
        _redirect(reports)
        os.chdir(cwd)
        os.environ.update(HOME=str(home), TMPDIR=str(home / "tmp"))
        os.environ[SECRET_VARIABLE] = SECRET
        tempfile.tempdir = None
        for name in [name for name in os.environ if name.startswith(("XDG_", "PYTEST"))]:
            del os.environ[name]
        _limit()
        heard = open(reports / "heard", "w")  # noqa: SIM115  # for the life of the process
        drop_privileges()
        guard.listen(case, forbidden, lambda what: print(what, file=heard, flush=True))
        try:
            code = work()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
            code = 98
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _redirect(reports: Path) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(reports / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, number)
        os.close(file)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    stack = open(reports / "stack", "w")  # noqa: SIM115
    faulthandler.enable(stack)
    faulthandler.register(signal.SIGXCPU, stack, chain=True)


def _limit() -> None:
    """Memory is limited as data on top of what the process has: its address space says little with torch in it."""
    with open("/proc/self/status") as file:
        held = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData"))
    for what, limit in (
        (resource.RLIMIT_DATA, held + MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 5))


def drop_privileges() -> None:
    """Lets a mode of 000 stop root, too: without the capabilities that override modes."""
    if os.geteuid():
        return
    capabilities = 0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    libc = ctypes.CDLL(None)
    head = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    if libc.capget(head, sets) == 0:
        for low in (0, 1, 2):
            sets[low] &= ~capabilities & 0xFFFFFFFF
        libc.capset(head, sets)

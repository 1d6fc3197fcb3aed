"""Faults planted on one node of a cluster, as its jobs meet them."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.cluster.slurm.cluster import SlurmCluster


@contextlib.contextmanager
def small_disk(cluster: SlurmCluster, node: str, folder: Path, size: str = "64k") -> Iterator[None]:
    """A file system of `size` bytes in the place of what the node has at `folder`, and of no other node's."""
    cluster.run_on(node, ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)])
    try:
        yield
    finally:
        cluster.run_on(node, ["umount", str(folder)])


def on_one_node(folder: Path, node: str, command: str) -> Path:
    """A BANYAN_RUN of `command`, which ends in exec, for the ranks of a node, and of nothing for others."""
    path = folder / "run.sh"
    path.write_text(
        f'#!/bin/bash\nif [[ -n $RANK && $SLURMD_NODENAME == {node} ]]; then {command} "$@"; fi\nexec "$@"\n'
    )
    path.chmod(0o755)
    return path


FEW_FILES = "ulimit -n 256; exec"


def held_up(shared: Path) -> str:
    """Runs what follows for a twentieth of the time, once a doctor works in `shared`: by stopping it again and again,
    which slows nobody else, whatever the kernel thinks of priorities."""
    wait = f"until compgen -G '{shared}/doctor-*' >/dev/null; do sleep 0.1; done"
    hold = "while kill -STOP $$; do sleep 0.19; kill -CONT $$; sleep 0.01; done"
    return f"({wait}; {hold}) 2>/dev/null & exec"


CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
  int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
  int code = real(clock, now);
  const char *ahead = getenv("CLOCK_AHEAD");
  if (code == 0 && clock == CLOCK_REALTIME && ahead) now->tv_sec += atoi(ahead);
  return code;
}
"""


def another_time(folder: Path, seconds: int) -> dict[str, str]:
    """Variables by which a program has a clock that is ahead, or behind; the monotonic one is right. libfaketime would
    do, but for Python's sleep, which it spoils."""
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(CLOCK)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "CLOCK_AHEAD": str(seconds)}


def left_of_doctor(folder: Path) -> list[str]:
    """Processes and folders that a doctor which worked in `folder` should have ended and removed."""
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if any(str(folder) in word for word in words) and process.pid != os.getpid():
                processes.append(" ".join(words))
    return processes + [path.name for path in folder.glob("doctor-*")]

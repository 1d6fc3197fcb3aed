"""Faults planted on one node of a cluster, as its jobs meet them."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.cluster.slurm.cluster import SlurmCluster

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


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


def beside_burners(shared: Path) -> str:
    """Runs what follows with the lowest priority, and among many that burn its processors' time once a doctor works in
    `shared`: a start among them would take minutes. Each session shares out what the kernel's autogroups give it."""
    burn = f"until compgen -G '{shared}/doctor-*' >/dev/null; do sleep 0.1; done; for i in {{1..24}}; do yes >/dev/null & done"
    return f"renice -n 19 $$ >/dev/null; (echo 19 >/proc/self/autogroup; {burn}) 2>/dev/null & exec"


def another_time(seconds: int) -> str:
    """Runs what follows with a clock that is ahead, but for the monotonic one. libfaketime spoils sleep with one that
    is behind."""
    settings = f"FAKETIME={seconds:+d}s FAKETIME_DONT_FAKE_MONOTONIC=1 DONT_FAKE_MONOTONIC=1"
    return f"exec env LD_PRELOAD={FAKETIME} {settings}"


def left_of_doctor(folder: Path) -> list[str]:
    """Processes and folders that a doctor which worked in `folder` should have ended and removed."""
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if any(str(folder) in word for word in words) and process.pid != os.getpid():
                processes.append(" ".join(words))
    return processes + [path.name for path in folder.glob("doctor-*")]


def has_faketime() -> bool:
    """Whether libfaketime is here (Debian's package faketime)."""
    return FAKETIME.exists() and shutil.which("faketime") is not None

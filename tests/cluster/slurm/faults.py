"""Faults planted on one node of a cluster, as its jobs meet them."""

from __future__ import annotations

import contextlib
import os
import resource
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
        cluster.run_on(node, ["umount", "--lazy", str(folder)])


@contextlib.contextmanager
def few_open_files(cluster: SlurmCluster, node: str, most: int = 256) -> Iterator[None]:
    """A low limit of open files for the node's daemon, and so for its jobs."""
    before = resource.prlimit(cluster.daemon(node), resource.RLIMIT_NOFILE, (most, most))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(cluster.daemon(node), resource.RLIMIT_NOFILE, before)


def on_one_node(folder: Path, node: str, command: str) -> Path:
    """A BANYAN_RUN that puts `command` before the ranks of a node, and nothing before other commands and ranks."""
    path = folder / "run.sh"
    path.write_text(
        f'#!/bin/bash\nif [[ -n $RANK && $SLURMD_NODENAME == {node} ]]; then {command} "$@"; fi\nexec "$@"\n'
    )
    path.chmod(0o755)
    return path


def another_time(seconds: int) -> str:
    """Runs what follows with a clock that is off, but for the monotonic one."""
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

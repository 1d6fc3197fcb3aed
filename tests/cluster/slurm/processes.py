"""What a private cluster runs and leaves behind, found in /proc and /tmp."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path

PREFIX = "banyan-slurm-"
"""Of the folders of clusters in /tmp; the pid of the process that started it follows."""


def cluster_name(folder: Path) -> str:
    """Of the cluster whose folder this is; SLURM takes small letters only."""
    return folder.name.removeprefix("banyan-").replace("_", "-").lower()


def processes_of(cluster: str) -> dict[int, dict[str, str]]:
    """Environments of the processes of all jobs of a cluster, by pid, oldest first."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            entries = path.read_bytes().decode(errors="replace").split("\0")
            variables = dict(entry.split("=", 1) for entry in entries if "=" in entry)
            if variables.get("SLURM_CLUSTER_NAME") == cluster:
                found[int(path.parent.name)] = variables
    return dict(sorted(found.items()))


def kill(pids: Iterable[int]) -> None:
    """SIGKILL for those that still run."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def remove_remains() -> None:
    """Ends and removes what is left of clusters whose process was killed."""
    for folder in Path("/tmp").glob(f"{PREFIX}*"):
        owner = folder.name.removeprefix(PREFIX).split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            kill(processes_of(cluster_name(folder)))
            shutil.rmtree(folder, ignore_errors=True)

"""Sidecars of the ranks: a process beside each, in a process group of their own, that may fail without harm to the run.

What they leave behind on a device, fragments of an allocation that failed included, is gone with them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from trainer.machine.host import free_port
from trainer.ranks.mesh import Mesh

_POLL_S = 0.2


def run_sidecars(module: str, order: Any, mesh: Mesh, log: Path, *, limit_s: float) -> list[int]:
    """Runs `python -m MODULE` beside every rank, with `order` (JSON) as its first line of input; exit codes by rank.

    They find each other as ranks do. When one fails, or after `limit_s`, all are ended; that is exit code -15. Every
    rank calls it, with a file for what its sidecar prints.
    """
    environment = {**os.environ, "MASTER_PORT": str(mesh.from_main(free_port() if mesh.is_main else 0))}
    environment.pop("TORCHELASTIC_USE_AGENT_STORE", None)  # torchrun listens for the ranks alone
    with log.open("ab") as output:
        sidecar = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=environment,
        )
        assert sidecar.stdin is not None
        with sidecar.stdin:  # which stays open: its end is ours
            try:
                sidecar.stdin.write(json.dumps(order).encode() + b"\n")
                sidecar.stdin.flush()
            except BrokenPipeError:
                pass  # it has failed; its exit code says so
            return _wait(sidecar, mesh, time.monotonic() + limit_s)


def _wait(sidecar: subprocess.Popen[bytes], mesh: Mesh, deadline: float) -> list[int]:
    codes: list[int | None] = [None] * mesh.world_size
    try:
        while None in codes:
            time.sleep(_POLL_S)
            late = mesh.from_main(time.monotonic() > deadline)
            codes = mesh.gather(sidecar.poll())
            if late or any(code not in (None, 0) for code in codes):
                sidecar.terminate()
    finally:
        sidecar.kill()
        sidecar.wait()
    return [code for code in codes if code is not None]


def read_order() -> Any:
    """In a sidecar: what it was sent. From now on it ends with the rank beside it."""
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_rank, daemon=True).start()
    return order


def _end_with_rank() -> None:
    sys.stdin.read()
    os._exit(1)

"""Stop requests that all ranks agree on."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed

from trainer.machine.interrupt import Raise, end_if_stuck
from trainer.ranks.mesh import Mesh

REASONS = (None, "file", "signal", "time")  # by verdict; of two requests the greater counts


SIGNALS = {signal.SIGTERM: 2, signal.SIGINT: 2, signal.SIGUSR1: 3}  # schedulers send USR1 before a time limit


BEFORE = " before the first step; the same command starts again"


class StopRequests:
    """Asks every rank to stop after the same step: a signal to any of them, or a file `stop` in the run directory.

    The verdict of a step is an asynchronous reduction on the gloo group, read one step later, so that no step waits
    for it. As a context manager it holds the signal handlers. Until the first step is taken there is nothing to save,
    and a signal ends the process: it raises Interrupted.
    """

    _mesh: Mesh
    _file: Path

    def __init__(self) -> None:
        self._request = 0
        self._pending: tuple[torch.Tensor, Any] | None = None
        self._former: dict[int, Any] = {}
        self._begun = False

    def __enter__(self) -> StopRequests:
        end_if_stuck()
        self._former = {number: signal.signal(number, Raise(BEFORE)) for number in SIGNALS}
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _begin(self) -> None:
        """The first step is taken: from now on signals are requests."""
        self._begun = True
        for number in self._former:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._request = max(self._request, SIGNALS[signal.Signals(number)])

    def attach(self, mesh: Mesh, run_dir: Path) -> None:
        """Says who must agree, and where the stop file would be."""
        self._mesh = mesh
        self._file = run_dir / "stop"

    def poll(self) -> str | None:
        """Called once a step by every rank: why to stop after this one ("file", "signal", "time"), or None."""
        if not self._begun:
            self._begin()
        if self._mesh.is_main and self._file.exists():
            self._request = max(self._request, REASONS.index("file"))
        if self._mesh.world_size == 1:
            return REASONS[self._request]
        verdict = 0
        if self._pending is not None:
            value, work = self._pending
            work.wait()
            verdict = int(value.item())
        value = torch.tensor([self._request], dtype=torch.int32)
        work = torch.distributed.all_reduce(
            value, op=torch.distributed.ReduceOp.MAX, group=self._mesh.control, async_op=True
        )
        self._pending = (value, work)
        return REASONS[verdict]

    def drain(self) -> None:
        """Waits for the reduction that is under way; every rank calls it before it leaves the loop."""
        if self._pending is not None:
            self._pending[1].wait()
            self._pending = None

    def honour(self) -> None:
        """Removes the stop file, once its request has been carried out. Rank 0 calls it."""
        self._file.unlink(missing_ok=True)

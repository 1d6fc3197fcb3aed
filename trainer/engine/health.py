"""Stop requests that all ranks agree on, and gradients that aren't finite."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed

from trainer.engine.mesh import Mesh
from trainer.errors import NonFiniteError

REASONS = (None, "file", "signal", "time")  # by verdict; of two requests the greater counts
SIGNALS = {signal.SIGTERM: 2, signal.SIGINT: 2, signal.SIGUSR1: 3}  # schedulers send USR1 before a time limit


class StopRequests:
    """Asks every rank to stop after the same step: a signal to any of them, or a file `stop` in the run directory.

    The verdict of a step is an asynchronous reduction on the gloo group, read one step later, so that no step waits
    for it. As a context manager it holds the signal handlers; what comes before the first step stops after that.
    """

    _mesh: Mesh
    _file: Path

    def __init__(self) -> None:
        self._request = 0
        self._pending: tuple[torch.Tensor, Any] | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        self._former = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._request = max(self._request, SIGNALS[signal.Signals(number)])

    def attach(self, mesh: Mesh, run_dir: Path) -> None:
        """Says who must agree, and where the stop file would be."""
        self._mesh = mesh
        self._file = run_dir / "stop"

    def poll(self) -> str | None:
        """Called once a step by every rank: why to stop after this one ("file", "signal", "time"), or None."""
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


class GradientGuard:
    """Gradient norms, clipping at stage 0, and the one rule at every stage: a norm that isn't finite stops the run.

    DeepSpeed reduces, clips and skips a non-finite step by itself at stages 1 to 3. At stage 0 it does none of that in
    fp32, so the norm is taken here and the fused AdamW told by `found_inf`, on the device, to leave the weights alone.
    """

    def __init__(self, engine: Any, optimizer: torch.optim.Optimizer, clip: float, mesh: Mesh) -> None:
        self._engine = engine
        self._mesh = mesh
        self._optimizer = optimizer
        self._clip = clip
        self._stage = engine.zero_optimization_stage()
        self._norm: torch.Tensor | None = None
        self._first_bad = torch.zeros((), dtype=torch.int64, device=engine.device)  # step number; 0: none

    @torch.no_grad()
    def before_step(self, step: int) -> None:
        """Stage 0: takes the norm of the reduced gradients, clips, and marks a step whose norm isn't finite."""
        if self._stage > 0:
            return
        parameters = [p for p in self._engine.module.parameters() if p.grad is not None]
        gradients = [p.grad for p in parameters]
        self._norm = self._total_norm(parameters)
        bad = ~torch.isfinite(self._norm)
        self._optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        self._first_bad = torch.where(bad & (self._first_bad == 0), step, self._first_bad)
        if self._clip > 0:
            scale = torch.clamp(self._clip / (self._norm + 1e-6), max=1.0)
            torch._foreach_mul_(gradients, scale)

    def _total_norm(self, parameters: list[torch.nn.Parameter]) -> torch.Tensor:
        """Norm of all gradients, where tensor-parallel peers hold slices of some and all of the others."""
        if self._mesh.tensor == 1:
            return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        from deepspeed.runtime.utils import is_model_parallel_parameter
        from deepspeed.utils import groups

        squares = []
        for cut in (True, False):
            held = [p.grad for p in parameters if p.grad is not None and is_model_parallel_parameter(p) == cut]
            squares.append(torch.nn.utils.get_total_norm(held).square())
        torch.distributed.all_reduce(squares[0], group=groups.get_tensor_model_parallel_group())
        return (squares[0] + squares[1]).sqrt()

    def after_step(self, step: int, *, synchronise: bool) -> None:
        """NonFiniteError if a step's norm wasn't finite. At stage 0 on a GPU this is looked up when `synchronise`."""
        if self._stage > 0:
            if getattr(self._engine.optimizer, "overflow", False):
                raise _non_finite(step)
        elif synchronise or self._first_bad.device.type == "cpu":
            first_bad = int(self._first_bad.item())
            if first_bad:
                raise _non_finite(first_bad)

    def norm(self) -> float:
        """Global gradient norm of the last step, before clipping."""
        value = self._norm if self._stage == 0 else self._engine.get_global_grad_norm()
        return float(value) if value is not None else float("nan")


def _non_finite(step: int) -> NonFiniteError:
    return NonFiniteError(
        f"step {step}: the gradient norm is not finite; that step was not taken and no checkpoint is written from it. "
        "Lower optimizer.lr, raise schedule.warmup_steps, or look at the data with "
        f'"banyan data at RUN_DIR step={step}".'
    )

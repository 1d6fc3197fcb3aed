"""Gradient norms, clipping, and gradients that aren't finite: one rule for every optimiser at every stage."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed

from trainer.engine.deepspeed.gradients import RawGradients
from trainer.errors import NonFiniteError
from trainer.ranks.mesh import Mesh


class GradientGuard:
    """Gradient norms, clipping, and the one rule at every stage: a norm that isn't finite stops the run.

    DeepSpeed clips and skips a non-finite step by itself at stages 1 to 3. At stage 0 it does none of that in fp32, so
    the norm is taken here. An optimiser that reads `grad_scale` and `found_inf`, as torch's fused ones do, clips and
    leaves the weights alone by itself, on the device; for any other, gradients are scaled here, and the norm is looked
    at before the step. With Muon the norm is taken here nearly always (gradients.py says why).
    """

    def __init__(
        self, engine: Any, optimizer: torch.optim.Optimizer, mesh: Mesh, *, clipping: float, deepspeed_clips: bool
    ) -> None:
        self._engine = engine
        self._optimizer = optimizer
        self._clip = clipping
        self._clips_itself = getattr(optimizer, "_step_supports_amp_scaling", False)
        self._gradients = None if deepspeed_clips else RawGradients(engine, mesh)
        self._norm: torch.Tensor | None = None
        self._first_bad = torch.zeros((), dtype=torch.int64, device=engine.device)  # step number; 0: none

    @torch.no_grad()
    def before_step(self, step: int) -> None:
        """Where DeepSpeed doesn't: takes the norm of the reduced gradients, clips, and minds one that isn't finite."""
        if self._gradients is None:
            return
        self._norm = self._gradients.norm()
        bad = ~torch.isfinite(self._norm)
        if not self._clips_itself and bad:  # this waits for the device, as DeepSpeed does in such a step
            raise _non_finite(step)
        self._first_bad = torch.where(bad & (self._first_bad == 0), step, self._first_bad)
        excess = torch.clamp((self._norm + 1e-6) / self._clip, min=1.0) if self._clip > 0 else None
        if self._clips_itself:
            self._optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
            self._optimizer.grad_scale = excess  # type: ignore[attr-defined]  # it divides by this as it reads them
        elif excess is not None:
            torch._foreach_div_(self._gradients.tensors(), excess)

    def step(self) -> None:
        """DeepSpeed's step: the optimiser's, if all micro-batches are in."""
        if self._gradients is not None:
            self._gradients.release()
        self._engine.step()

    def after_step(self, step: int, *, synchronise: bool) -> None:
        """NonFiniteError if a step's norm wasn't finite. At stage 0 on a GPU this is looked up when `synchronise`."""
        if self._gradients is None:
            if getattr(self._engine.optimizer, "overflow", False):
                raise _non_finite(step)
        elif synchronise or self._first_bad.device.type == "cpu":
            first_bad = int(self._first_bad.item())
            if first_bad:
                raise _non_finite(first_bad)

    def norm(self) -> float:
        """Global gradient norm of the last step, before clipping."""
        value = self._norm if self._gradients is not None else self._engine.get_global_grad_norm()
        return float(value) if value is not None else float("nan")


def _non_finite(step: int) -> NonFiniteError:
    return NonFiniteError(
        f"step {step}: the gradient norm is not finite; that step was not taken and no checkpoint is written from it. "
        "Lower optimizer.lr, raise schedule.warmup_steps, or look at the data with "
        f'"banyan data at RUN_DIR step={step}".'
    )

"""Gradient norms, clipping, and steps that are bad: one rule for every optimiser at every stage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed

from trainer.engine.deepspeed.discard import discarding
from trainer.engine.deepspeed.fragments import inner_optimizer
from trainer.engine.deepspeed.gradients import RawGradients, gradient_shares
from trainer.engine.step_judge import StepJudge
from trainer.errors import NonFiniteError
from trainer.ranks.mesh import Mesh


class GradientGuard:
    """Gradient norms, clipping, and one rule at every stage: a norm that isn't finite stops the run, or what `judge`
    says of a step is done.

    DeepSpeed clips and skips a non-finite step by itself at stages 1 to 3. At stage 0 it does none of that in fp32, so
    the norm is taken here. An optimiser that reads `grad_scale` and `found_inf`, as torch's fused ones do, clips and
    leaves the weights alone by itself, on the device; for any other, gradients are scaled here, and the norm is looked
    at before the step. With Muon the norm is taken here nearly always (gradients.py says why).

    A bad step that is to be skipped goes the same ways: by `found_inf`, which at stages 1 to 3 is set as DeepSpeed
    comes to its optimiser, when it has the norm; and with Muon, which waits for the norm anyway, by throwing the
    gradients away.
    """

    def __init__(
        self,
        engine: Any,
        optimizer: torch.optim.Optimizer,
        mesh: Mesh,
        *,
        clipping: float,
        deepspeed_clips: bool,
        judge: StepJudge | None = None,
    ) -> None:
        self._engine = engine
        self._optimizer = optimizer
        self._clip = clipping
        self._judge = judge
        self._clips_itself = getattr(optimizer, "_step_supports_amp_scaling", False)
        self._gradients = None if deepspeed_clips else RawGradients(engine, mesh)
        self._norm: torch.Tensor | None = None
        self._first_bad = torch.zeros((), dtype=torch.int64, device=engine.device)  # step number; 0: none
        self._judged = False
        self._discards = False
        if judge is not None and deepspeed_clips:
            self._judge_within_step(judge)

    def _judge_within_step(self, judge: StepJudge) -> None:
        """Has DeepSpeed's step judged when its norm is known, before the first of its groups is stepped."""
        inner = inner_optimizer(self._engine)
        step = inner.step

        def judged(*arguments: Any, **options: Any) -> Any:
            if not self._judged:
                bad = judge.judge(self._engine.optimizer._global_grad_norm)
                self._judged = True
                if judge.skips:
                    parameter = next(p for group in inner.param_groups for p in group["params"])
                    inner.found_inf = bad.float().to(parameter.device)  # type: ignore[attr-defined]
            return step(*arguments, **options)

        inner.step = judged  # type: ignore[method-assign]

    def shares(self) -> Iterator[tuple[Any, torch.Tensor]]:
        """Parameters with their gradients before the step, or this rank's shares of them."""
        return gradient_shares(self._engine, self._gradients)

    @torch.no_grad()
    def before_step(self, step: int) -> None:
        """Where DeepSpeed doesn't: takes the norm of the reduced gradients, clips, and minds a step that is bad."""
        if self._gradients is None:
            return
        self._norm = self._gradients.norm()
        bad = ~torch.isfinite(self._norm)
        if self._judge is not None:
            judged = self._judge.judge(self._norm)
            bad = bad | judged if self._judge.skips else bad
        if not self._clips_itself and bad:  # this waits for the device, as DeepSpeed does in such a step
            if self._judge is None:
                raise _non_finite(step)
            self._discards = True
        if self._judge is None:
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
        ends = self._engine.is_gradient_accumulation_boundary()
        with discarding(self._engine) if self._discards else contextlib.nullcontext():
            self._engine.step()
        if self._judge is not None and ends:
            if self._gradients is None and not self._judged:
                self._judge.judge(torch.nan)  # DeepSpeed found the norm not finite, and left its optimiser out
            self._judged = self._discards = False

    def after_step(self, step: int, *, synchronise: bool) -> None:
        """NonFiniteError if a step's norm wasn't finite. At stage 0 on a GPU this is looked up when `synchronise`.

        With a judge nothing is raised: it knows.
        """
        if self._judge is not None:
            return
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

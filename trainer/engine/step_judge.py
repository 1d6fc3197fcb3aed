"""health.on_spike: which steps are bad, decided on the device, the same on every rank, remembered until it is asked.

A step is bad where its loss or its gradient norm is a spike (spike_window.py) or isn't finite.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from trainer.config import Health
from trainer.engine.spike_window import SpikeWindow, window_from_json
from trainer.ranks.mesh import Mesh
from trainer.track.spikes import SpikeRule

STATE = "spikes"  # in a checkpoint's state


class StepJudge:
    """Judges each step once, before its weights are written."""

    def __init__(self, health: Health, mesh: Mesh) -> None:
        self.skips = health.on_spike == "skip"
        self._mesh = mesh
        rule = SpikeRule(health.sigma, health.window)
        self._losses, self._norms = SpikeWindow(rule, mesh.device), SpikeWindow(rule, mesh.device)
        self._step, self._units = 0, 1
        self._loss = torch.zeros((), device=mesh.device)
        self._judged: list[tuple[int, Tensor]] = []

    def begin(self, step: int, loss: Tensor, units: int) -> None:
        """Takes up a step, of which this rank has the summed `loss` of its rows; `units` are the global batch's."""
        self._step, self._loss, self._units = step, loss.detach(), units

    def judge(self, norm: Tensor | float) -> Tensor:
        """Whether the step is bad, 0-d bool on the device, the same on every rank: all sum up what they have."""
        own = torch.stack((self._loss.double(), torch.as_tensor(norm, device=self._loss.device).double()))
        if self._mesh.world_size > 1:
            torch.distributed.all_reduce(own)
        tensor, world_size = self._mesh.tensor, self._mesh.world_size  # tensor-parallel peers have the same losses
        bad = self._losses.judge(own[0] / tensor / max(1, self._units)) | self._norms.judge(own[1] / world_size)
        self._judged.append((self._step, bad))
        return bad

    def take_bad(self) -> list[int]:
        """The bad steps since the last call; waits for the device."""
        judged, self._judged = self._judged, []
        if not judged:
            return []
        flags = torch.stack([bad for _, bad in judged]).tolist()
        return [step for (step, _), bad in zip(judged, flags, strict=True) if bad]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"loss": asdict(self._losses.state()), "norm": asdict(self._norms.state())}

    def restore(self, record: Any) -> None:
        """Goes on from `state` of a checkpoint; one without begins anew."""
        self._judged.clear()
        if record is not None:
            self._losses.restore(window_from_json(record.get("loss")))
            self._norms.restore(window_from_json(record.get("norm")))

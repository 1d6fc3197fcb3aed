"""The last values of a loss or a norm, on the device: whether the next one is a spike is known there without a wait.

The rule is trainer/track/spikes.py's, which is OLMo-core's (src/olmo_core/optim/skip_step_optimizer.py); this is its
form in tensor operations, whose verdict is a tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.machine.json_file import Count, from_json
from trainer.track.spikes import SpikeRule


@dataclass(frozen=True)
class WindowState:
    """A window as JSON: its values in their places of the ring, and how many have been added in all."""

    values: list[float]
    count: Count


class SpikeWindow:
    """A ring of the rule's last finite values, fp64."""

    def __init__(self, rule: SpikeRule, device: torch.device) -> None:
        self._rule, size = rule, rule.window
        self._size = size
        self._places = torch.arange(size, device=device)
        self._values = torch.zeros(size, dtype=torch.float64, device=device)
        self._count = torch.zeros((), dtype=torch.int64, device=device)

    def judge(self, value: Tensor) -> Tensor:
        """Whether a value, 0-d, is a spike or isn't finite: 0-d bool on the device. A finite one joins the window."""
        value = value.detach().double()
        finite = torch.isfinite(value)
        full = self._count.clamp(max=self._size)
        there = self._places < full
        first = self._values[0]
        apart = torch.where(there, self._values - first, 0)  # from the first: exact where all are the same
        mean = apart.sum() / full.clamp(min=1)
        squares = torch.where(there, (apart - mean).square(), 0).sum()
        limit = self._rule.limit_by_moments(first + mean, squares / (full - 1).clamp(min=1))
        spike = (value > limit) & (self._count >= self._rule.needed)
        here = (self._places == self._count % self._size) & finite
        self._values = torch.where(here, value, self._values)
        self._count = self._count + finite
        return spike | ~finite

    def state(self) -> WindowState:
        """What a checkpoint keeps; waits for the device."""
        return WindowState(self._values.tolist(), int(self._count))

    def restore(self, state: WindowState) -> None:
        """Goes on from a checkpoint; one with a window of another size begins anew."""
        if len(state.values) == self._size:
            self._values.copy_(torch.tensor(state.values, dtype=torch.float64))
            self._count.fill_(state.count)


def window_from_json(record: object) -> WindowState:
    """A window that a checkpoint states. Malformed where it isn't one."""
    return from_json(WindowState, record)

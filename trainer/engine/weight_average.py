"""train.ema: an exponential moving average of the weights, at any ZeRO stage, saved as one more kind of fragment.

After each step, average ← decay · average + (1 − decay) · weight, in fp32, from the initial weights on (Polyak and
Juditsky, 1992; as in most diffusion and self-supervised training). Each rank averages what it holds, nothing is
gathered.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from trainer.checkpoint.fragment import EMA, WEIGHT, Fragment
from trainer.checkpoint.reader import CheckpointReader
from trainer.engine.hooks import Hook
from trainer.model.region import Region


class WeightAverage(Hook):
    """The average of the regions that this rank holds, `fragments`, whose views alias the weights of the moment."""

    def __init__(self, fragments: Iterable[Fragment], decay: float) -> None:
        self._decay = decay
        self._weights: dict[tuple[str, Region], torch.Tensor] = {
            (fragment.parameter, fragment.region): fragment.views[WEIGHT] for fragment in fragments
        }
        self._averages: dict[tuple[str, Region], torch.Tensor] = {}

    @torch.no_grad()
    def begin(self, reader: CheckpointReader | None) -> None:
        """From the checkpoint's average; from the weights in a new run, or where the average is new to it."""
        self._averages = {place: weight.detach().clone() for place, weight in self._weights.items()}
        for (parameter, region), average in self._averages.items():
            if reader is not None and reader.holds(parameter, EMA):
                average.copy_(reader.read(parameter, EMA, region))

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Moves each average towards its weight."""
        weights = [self._weights[place].detach() for place in self._averages]
        torch._foreach_lerp_(list(self._averages.values()), weights, 1 - self._decay)

    def extend(self, fragment: Fragment) -> Fragment:
        """The fragment with its average."""
        average = self._averages[fragment.parameter, fragment.region]
        return Fragment(fragment.parameter, fragment.region, fragment.views | {EMA: average})

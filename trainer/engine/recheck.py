"""health.recheck: a step whose loss is a spike or isn't finite is computed again on the same devices, before its end.

As Megatron-LM's rerun machine (megatron/core/rerun_state_machine.py): where the losses of a micro-batch have other bits
the second time, the fault was transient, and the device is to blame; where all have the same, it is persistent: data,
weights or the method. The backward pass, too, is taken twice, down to the embeddings, and its bits are compared; at
ZeRO stage 3, whose backward passes can't be taken without reducing gradients, the forward pass alone.
Every step waits for the device, to know its loss.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from trainer.config import Health
from trainer.data.tokens.loader import Batch
from trainer.engine.spike_window import SpikeWindow
from trainer.engine.stragglers import device_in_words
from trainer.objective.build import Objective
from trainer.ranks.mesh import Mesh
from trainer.track.spikes import SpikeRule


class Recheck:
    """Keeps a step's micro-batches and their losses until the step is over."""

    def __init__(
        self,
        health: Health,
        mesh: Mesh,
        engine: Any,
        objective: Objective,
        say: Callable[[str], None],
    ) -> None:
        self._mesh, self._engine, self._objective, self._say = mesh, engine, objective, say
        self._losses = SpikeWindow(SpikeRule(health.sigma, health.window), mesh.device)
        self._kept: list[tuple[Batch, Tensor]] = []

    def keep(self, batch: Batch, rows: Tensor) -> None:
        """Takes up a micro-batch and the losses of its rows."""
        self._kept.append((batch, rows.detach()))

    def before_step(self, step: int, loss: Tensor, units: int, seed: Callable[[Batch], None]) -> None:
        """Looks at the step's summed loss of this rank; computes it again where all ranks' is bad. Waits.

        `seed` sets dropout for a micro-batch.
        """
        total = loss.detach().double().clone()
        if self._mesh.world_size > 1:
            torch.distributed.all_reduce(total)
        if bool(self._losses.judge(total / self._mesh.tensor / max(1, units))):
            self._compare(step, seed)
        self._kept.clear()

    def _compare(self, step: int, seed: Callable[[Batch], None]) -> None:
        forward = backward = not_finite = 0
        for batch, rows in self._kept:
            first, second = self._again(batch, seed), self._again(batch, seed)
            forward += not (same_bits(rows, first[0]) and same_bits(rows, second[0]))
            backward += not same_bits(first[1], second[1])
            not_finite += not bool(torch.isfinite(rows).all())
        place = f"rank {self._mesh.rank} ({platform.node()}, {device_in_words(self._mesh)})"
        found = self._mesh.gather((place, forward, backward, not_finite))
        if not self._mesh.is_main:
            return
        faulty = [each for each in found if each[1] or each[2]]
        for who, losses, gradients, _ in faulty:
            what = " and ".join(
                f"{name} of {count} of {len(self._kept)} micro-batches"
                for name, count in (("losses", losses), ("gradients", gradients))
                if count
            )
            self._say(
                f"step {step}: recheck: transient: {who} got other bits for the {what} when they were computed again: "
                "look at that device (memory errors, heat), or leave its host out"
            )
        if not faulty:
            bad = [who for who, _, _, count in found if count]
            where = f"; not finite on {', '.join(bad[:4])}" if bad else ""
            self._say(
                f"step {step}: recheck: persistent: all ranks got the same bits when they computed it again, so "
                f'that it is the data or the mathematics{where}; "banyan data at RUN_DIR step={step}" shows the data'
            )

    def _again(self, batch: Batch, seed: Callable[[Batch], None]) -> tuple[Tensor, Tensor]:
        """Losses of the rows once more, and the gradient by the embeddings; without it an empty tensor."""
        seed(batch)
        module = self._engine.module
        if self._engine.zero_optimization_stage() == 3:
            with torch.no_grad():
                return self._objective.losses(module, batch).rows, torch.empty(0)
        embedded: list[Tensor] = []
        embedding = next(each for each in module.modules() if isinstance(each, nn.Embedding))
        handle = embedding.register_forward_hook(lambda _, __, output: embedded.append(output.requires_grad_()))
        try:
            rows = self._objective.losses(module, batch).rows
            (gradient,) = torch.autograd.grad(rows.sum(), embedded[:1])
        finally:
            handle.remove()
        return rows.detach(), gradient


def same_bits(one: Tensor, two: Tensor) -> bool:
    """Whether two tensors are the same, NaNs included."""
    if one.shape != two.shape or one.dtype != two.dtype:
        return False
    return torch.equal(one.contiguous().view(torch.uint8), two.contiguous().view(torch.uint8))

"""Stage 0 on several GPUs: gradients are averaged while backward goes on, where they are.

DeepSpeed waits for the end of backward, copies all gradients into one buffer, sums that among the ranks and copies it
back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed

BUCKET = 16_000_000
"""Elements that are summed at once, 64 MB: large enough for a network's full speed, small enough to begin early."""


class ReplicaGradients:
    """Averages the gradients of an engine at stage 0, in the place of its own `allreduce_gradients`.

    A bucket is begun when all its gradients are there and all buckets before it have been begun, so that every rank
    sends the same in the same order.
    """

    def __init__(self, engine: Any, group: Any, elements: int = BUCKET) -> None:
        self._engine = engine
        self._group = group
        parameters = [p for p in engine.module.parameters() if p.requires_grad]
        self._buckets = list(_in_buckets(parameters[::-1], elements))  # backward comes to the last ones first
        self._place = {parameter: place for place, bucket in enumerate(self._buckets) for parameter in bucket}
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(self._arrived)
        engine.allreduce_gradients = self.finish
        self._reset()

    def _reset(self) -> None:
        self._missing = [len(bucket) for bucket in self._buckets]
        self._begun: list[Any] = []

    def _arrived(self, parameter: torch.Tensor) -> None:
        if not self._engine.is_gradient_accumulation_boundary():
            return
        self._missing[self._place[parameter]] -= 1
        while len(self._begun) < len(self._buckets) and self._missing[len(self._begun)] == 0:
            self._begin()

    def _begin(self) -> None:
        """Begins to sum the next bucket; what a parameter without a gradient adds is zeros."""
        for parameter in self._buckets[len(self._begun)]:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        options = torch.distributed.AllreduceCoalescedOptions()
        gradients = [parameter.grad for parameter in self._buckets[len(self._begun)]]
        self._begun.append(self._group.allreduce_coalesced(gradients, options))

    def finish(self, *_: Any, **__: Any) -> None:
        """At the end of a step's last backward: returns when all gradients are the means over the ranks."""
        if not self._engine.is_gradient_accumulation_boundary():
            return
        while len(self._begun) < len(self._buckets):
            self._begin()
        for work in self._begun:
            work.wait()
        gradients = [p.grad for bucket in self._buckets for p in bucket if p.grad is not None]
        torch._foreach_mul_(gradients, 1.0 / torch.distributed.get_world_size(self._group))
        self._reset()


def _in_buckets(parameters: list[torch.Tensor], elements: int) -> Iterator[list[torch.Tensor]]:
    """`parameters` in their order, in lists of at least `elements` together, but for the last."""
    bucket: list[torch.Tensor] = []
    for parameter in parameters:
        bucket.append(parameter)
        if sum(each.numel() for each in bucket) >= elements:
            yield bucket
            bucket = []
    if bucket:
        yield bucket

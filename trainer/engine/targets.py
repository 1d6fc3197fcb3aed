"""How much a step is divided by, over all ranks and micro-steps: known before its first backward, without a wait."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
import torch.distributed

from trainer.config.batches import padding_share, rounds
from trainer.config.ramps import Ramps, StepSize
from trainer.data.tokens.loader import IGNORED, Batch
from trainer.ranks.mesh import Mesh


@dataclass(frozen=True)
class StepPlan:
    """What is known of a step before its data: its size, and in how many micro-steps a rank takes its part of it.

    Of the micro-batches of all ranks, the share `padding` are empty.
    """

    size: StepSize
    micro_steps: int
    padding: float = 0.0


def plan_steps(ramps: Ramps, position: int, *, micro_batch_size: int, ranks: int) -> Iterator[StepPlan]:
    """The steps from the one at `position` on, on so many data ranks; without end."""
    for _, size in ramps.steps(position):
        chunks = size.rows // micro_batch_size
        yield StepPlan(size, rounds(chunks, ranks), padding_share(chunks, ranks))


@dataclass(frozen=True)
class Step:
    """This rank's micro-batches of an optimiser step, and the targets and units of the whole global batch.

    The loss is divided by the units, which are the targets or what else the objective counts.
    """

    batches: Iterable[Batch]
    plan: StepPlan
    targets: int
    units: int


# The units of each row of a batch, (rows,): an objective's
Units = Callable[[Batch], torch.Tensor]


def fixed_steps(batches: Iterator[Batch], plans: Iterator[StepPlan], *, targets_per_row: int) -> Iterator[Step]:
    """Steps whose rows all have the same number of targets, which are the units: nothing needs to be counted."""
    for plan in plans:
        targets = plan.size.rows * targets_per_row
        yield Step(islice(batches, plan.micro_steps), plan, targets, targets)


class _Count:
    """The count of a step's targets and units, on its way: ranks are added up on gloo while the last is computed."""

    def __init__(self, source: Iterator[Batch], plan: StepPlan, mesh: Mesh, units: Units) -> None:
        self.plan, self.batches = plan, list(islice(source, plan.micro_steps))
        batches = self.batches
        own = [
            sum(int((batch.targets != IGNORED).sum()) for batch in batches),
            sum(int(units(batch).sum()) for batch in batches),
        ]
        counts_once = mesh.tensor_rank == 0 and mesh.sequence_rank == 0  # neighbours take the same rows
        self._total = torch.tensor(own if counts_once else [0, 0], dtype=torch.int64)
        self._work: Any = None
        if mesh.world_size > 1:
            self._work = torch.distributed.all_reduce(self._total, group=mesh.control, async_op=True)

    def wait(self) -> tuple[int, int]:
        """Targets and units of the global batch."""
        if self._work is not None:
            self._work.wait()
        targets, units = self._total.tolist()
        return targets, units


def counted_steps(batches: Iterator[Batch], plans: Iterator[StepPlan], *, mesh: Mesh, units: Units) -> Iterator[Step]:
    """Steps whose targets and units are counted from the batches as the loader gives them, one step ahead of their use.

    Every rank must use up each step's batches: after the last of them the next step's are counted.
    """
    upcoming = _Count(batches, next(plans), mesh, units)
    while True:
        current, following = upcoming, list[_Count]()

        def use(batches_of_step: list[Batch], following: list[_Count] = following) -> Iterator[Batch]:
            yield from batches_of_step
            following.append(_Count(batches, next(plans), mesh, units))

        yield Step(use(current.batches), current.plan, *current.wait())
        (upcoming,) = following

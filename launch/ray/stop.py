"""Where the driver leaves a stop request and rank 0's worker looks for one; and where it is said whether ranks run."""

from __future__ import annotations

from typing import Any

import ray


class StopDesk:
    """An actor of one attempt, on the driver's node; it ends when the driver forgets it."""

    def __init__(self) -> None:
        self._runs: bool | None = None
        self._number: int | None = None

    def report(self, runs: bool) -> None:
        """Rank 0's worker: its ranks are about to start, or have ended."""
        self._runs = runs

    def ranks_run(self) -> bool | None:
        """The driver: whether ranks run; None if none was ever started."""
        return self._runs

    def request(self, number: int) -> None:
        """The driver: the ranks shall get this signal."""
        self._number = number

    def requested(self) -> int | None:
        """Rank 0's worker: the signal that the driver asked for."""
        return self._number


def open_desk() -> Any:
    """A new desk, on this node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(StopDesk)
    return actor.options(num_cpus=0, scheduling_strategy=here).remote()

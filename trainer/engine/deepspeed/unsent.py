"""DeepSpeed built without sending weights between ranks: each rank sets its own right afterwards.

At its start DeepSpeed broadcasts every parameter from rank 0, and at stage 3 gathers each whole as well: at 70B that
is 282 GB, or twice that, through every rank. Here weights come from a function of the seed, a folder or a checkpoint,
which every rank reads for itself (`fragments.restore`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


class _Done:
    """What waits for nothing."""

    def wait(self) -> None:
        pass

    def is_completed(self) -> bool:
        return True


class _Unsent:
    """DeepSpeed's communication, whose broadcasts and gathers do nothing."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    def broadcast(self, *arguments: Any, **options: Any) -> _Done:
        return _Done()

    all_gather = all_gather_into_tensor = allgather_fn = broadcast


@contextlib.contextmanager
def weights_unsent() -> Iterator[None]:
    """While DeepSpeed constructs and wraps a model, whose parameters hold anything afterwards."""
    from deepspeed.runtime.engine import DeepSpeedEngine
    from deepspeed.runtime.zero import partition_parameters

    comm, broadcast_model = partition_parameters.dist, DeepSpeedEngine._broadcast_model
    partition_parameters.dist = _Unsent(comm)
    DeepSpeedEngine._broadcast_model = lambda engine: None
    try:
        yield
    finally:
        partition_parameters.dist, DeepSpeedEngine._broadcast_model = comm, broadcast_model

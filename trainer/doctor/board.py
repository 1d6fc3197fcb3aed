"""What ranks tell each other in passing, by the store that they met at: it asks for no collective, so that it can be
read while a rank is stuck in one."""

from __future__ import annotations

import sys
import threading
from types import FrameType
from typing import Any

import torch.distributed

ELSEWHERE = "elsewhere: "
WAITS = "waits"


class Board:
    """One rank's notes, and those of the others. Its connection to the store is its own: others may wait in theirs."""

    def __init__(self, rank: int, world_size: int) -> None:
        self._rank, self._world_size = rank, world_size
        shared: Any = torch.distributed.distributed_c10d._get_default_store()
        self._store = shared.clone()

    def tell(self, about: str, text: str) -> None:
        """Leaves this rank's note."""
        self._store.set(_key(about, self._rank), text)

    def told(self, about: str, rank: int) -> str | None:
        """The note of a rank, if it has left one."""
        key = _key(about, rank)
        return self._store.get(key).decode() if self._store.check([key]) else None

    def told_by_all(self, about: str) -> dict[int, str | None]:
        """The notes of all ranks."""
        return {rank: self.told(about, rank) for rank in range(self._world_size)}


def where_it_is() -> str:
    """What keeps the main thread of this process: others (WAITS), or ELSEWHERE and a function of ours."""
    frame: FrameType | None = sys._current_frames()[threading.main_thread().ident or 0]
    place = None
    while frame is not None:
        file = frame.f_code.co_filename.replace("\\", "/")
        if "/torch/distributed/" in file:
            return WAITS
        if place is None and "/trainer/" in file:
            place = f"{frame.f_code.co_name} ({file.rpartition('/trainer/')[2]}:{frame.f_lineno})"
        frame = frame.f_back
    return f"{ELSEWHERE}{place or 'a library'}"


def _key(about: str, rank: int) -> str:
    return f"doctor/{about}/{rank}"

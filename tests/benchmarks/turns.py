"""A contestant's side of taking turns: it trains only when it is told to, and says how long its steps took.

Only the standard library and, where it is imported already, torch: it is used in the peers' environments, too.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

REPORT = "BENCHMARK_REPORT"  # environment variable: the file descriptor that reports go to


class Turns:
    """Call `between` at every boundary between steps, the one before the first included.

    After `warmup` steps it reports, and waits on standard input for a number of steps; after those it reports again.
    Without another number the process ends at once, whatever framework it is in the hands of. `facts` are told as well,
    and found out after a turn's time has been taken.
    """

    def __init__(self, warmup: int, facts: Callable[[], dict[str, Any]] = dict) -> None:
        self._left = warmup
        self._facts = facts
        self._began = time.perf_counter()

    def between(self) -> None:
        """Returns at once, or at the end of a turn, when the next one begins."""
        if self._left > 0:
            self._left -= 1
            return
        _wait_for_device()
        seconds = time.perf_counter() - self._began
        report = {"seconds": seconds, "memory_bytes": _peak_memory(), **self._facts()}
        os.write(int(os.environ[REPORT]), f"{json.dumps(report)}\n".encode())
        steps = int(sys.stdin.readline() or 0)
        if steps == 0:
            os._exit(0)
        self._left = steps - 1
        self._began = time.perf_counter()


def _wait_for_device() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _peak_memory() -> int | None:
    """Bytes of the GPU; None on a CPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.max_memory_reserved())

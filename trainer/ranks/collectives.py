"""Which collective this rank is in, and how long it has waited in them: every call of torch.distributed's is counted.

Ranks of a group call the same collectives in the same order, so that a name and a number per group tell at a hang
which of them is elsewhere. The time in them is time for which others are waited, and none of this rank's own work.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed

NAMES = (
    *("all_reduce", "all_gather", "all_gather_into_tensor", "reduce_scatter", "reduce_scatter_tensor"),
    *("all_to_all", "all_to_all_single", "broadcast", "reduce", "gather", "scatter", "barrier"),
)


@dataclass(frozen=True)
class Call:
    """A collective: the `number`-th (from 1) of its `group` on this rank; `size` is the elements of its first tensor.

    `waiting` says that the training thread is in it, or waits for its end.
    """

    name: str = ""
    group: str = ""
    number: int = 0
    size: int = 0
    waiting: bool = False

    def in_words(self) -> str:
        """all_reduce number 41 of group 0 (4,096 elements)"""
        return f"{self.name} number {self.number} of group {self.group} ({self.size:,} elements)"


class RunQueue:
    """How long the thread that makes this has waited for a processor, as Linux counts it; 0 where it doesn't."""

    def __init__(self) -> None:
        try:
            self._file = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = -1

    def seconds(self) -> float:
        """Seconds since the thread began."""
        if self._file < 0:
            return 0.0
        try:
            return int(os.pread(self._file, 96, 0).split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            return 0.0


@dataclass
class Collectives:
    """What the training thread calls; other threads' calls, and those inside of compiled blocks, are counted by nobody.

    `seconds` is the time in them, `queued` how much of the time outside of them it has waited for a processor.
    """

    seconds: float = 0.0
    _queued_inside: float = 0.0
    _queue: RunQueue | None = None
    last: Call = field(default_factory=Call)
    _thread: int = 0
    _numbers: dict[str, int] = field(default_factory=dict)

    def install(self) -> None:
        """Counts from now on the collectives of the thread that calls this."""
        self._thread = threading.get_ident()
        self._queue = RunQueue()
        self._numbers.clear()
        for name in NAMES:
            function = getattr(torch.distributed, name)
            if not hasattr(function, "counted"):
                setattr(torch.distributed, name, self._counted(name, function))

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def counted(*arguments: Any, **options: Any) -> Any:
            if torch.compiler.is_compiling():
                return function(*arguments, **_as_traced(options))
            if threading.get_ident() != self._thread:
                return function(*arguments, **options)
            call = self._begin(name, arguments, options)
            began = self._now()
            work = function(*arguments, **options)
            if work is None:
                self._end(call, began)
                return None
            self.last = _at_rest(call)
            return work if torch.cuda.is_initialized() else Awaited(work, call, self)

        counted.counted = True  # type: ignore[attr-defined]
        return counted

    def _begin(self, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Call:
        group = next((each for each in arguments if isinstance(each, torch.distributed.ProcessGroup)), None)
        group = options.get("group") or group
        label = group.group_name if isinstance(group, torch.distributed.ProcessGroup) else "0"
        number = self._numbers[label] = self._numbers.get(label, 0) + 1
        size = next((each.numel() for each in (*arguments, *options.values()) if isinstance(each, torch.Tensor)), 0)
        self.last = Call(name, label, number, size, waiting=True)
        return self.last

    @property
    def queued(self) -> float:
        """Seconds that the thread has waited for a processor outside of collectives."""
        return self._queue.seconds() - self._queued_inside if self._queue is not None else 0.0

    def _now(self) -> tuple[float, float]:
        return time.perf_counter(), self._queue.seconds() if self._queue is not None else 0.0

    def _end(self, call: Call, began: tuple[float, float]) -> None:
        now = self._now()
        self.seconds += now[0] - began[0]
        self._queued_inside += now[1] - began[1]
        self.last = _at_rest(call)

    def wait(self, call: Call, wait: Callable[..., Any], *arguments: Any) -> Any:
        """Waits for the end of an asynchronous call."""
        self.last = Call(call.name, call.group, call.number, call.size, waiting=True)
        began = self._now()
        found = wait(*arguments)
        self._end(call, began)
        return found


class Awaited:
    """The work of an asynchronous collective on a CPU, whose `wait` is noted."""

    def __init__(self, work: Any, call: Call, collectives: Collectives) -> None:
        self._work, self._call, self._collectives = work, call, collectives

    def wait(self, *arguments: Any) -> Any:
        """Returns when the collective has ended."""
        return self._collectives.wait(self._call, self._work.wait, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


def _as_traced(options: dict[str, Any]) -> dict[str, Any]:
    """Of a call that is compiled: torch's tracer takes a reduction by its name, unless it finds its own function."""
    if options.get("op") == torch.distributed.ReduceOp.SUM:
        return {**options, "op": "sum"}
    return options


def _at_rest(call: Call) -> Call:
    return Call(call.name, call.group, call.number, call.size)


COLLECTIVES = Collectives()  # of this process, as torch.distributed's groups are

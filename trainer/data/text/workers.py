"""An ordered map over idempotent work items: in this process, or over several. launch/ray/map.py passes in its own."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from typing import Any, Protocol, TypeVar

from trainer.errors import BanyanError

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2  # items handed out for each worker, so that none waits for the parent


class Map(Protocol):
    """Applies a picklable function to work items and yields the results in their order.

    An item may be run more than once (a lost node, a restart), so the function must be idempotent.
    """

    def __call__(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Results in the order of `items`; the first failure is raised and the rest is dropped."""


def in_process(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """The map of one worker: this process."""
    yield from map(function, items)


@contextmanager
def processes(count: int) -> Iterator[Map]:
    """A map over `count` processes, started when first needed; for one worker or one item it is this process."""
    if count == 1:
        yield in_process
        return
    # Spawned, not forked: the parent has threads (progress bar, tokenizers), and a forked lock may never open.
    executor = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_begin_worker)

    def spread(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        if len(items) <= 1:
            return in_process(function, items)
        return _ordered(executor, function, items, ahead=AHEAD * count)

    try:
        yield spread
    finally:
        executor.shutdown(cancel_futures=True)


def _ordered(
    executor: ProcessPoolExecutor, function: Callable[[Item], Result], items: Sequence[Item], *, ahead: int
) -> Iterator[Result]:
    """Results in order, with at most `ahead` items handed out at a time."""
    running: deque[Future[Any]] = deque()
    try:
        for item in items:
            running.append(executor.submit(function, item))
            if len(running) == ahead:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    except BrokenProcessPool as error:
        raise BanyanError(
            "A worker process was killed (out of memory?): lower data.workers, then run the same command again; "
            "it continues."
        ) from error
    finally:
        for future in running:
            future.cancel()


def _begin_worker() -> None:
    """Leaves Ctrl-C to the parent, and ends this worker when the parent is gone, even by kill -9."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the parallelism
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

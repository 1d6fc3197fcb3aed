"""An ordered map over idempotent work items: in this process, or over several. launch/ray/map.py passes in its own."""

from __future__ import annotations

import os
import signal
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain, islice
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from trainer.errors import BanyanError
from trainer.machine.sealing.keyring import KEYRING
from trainer.machine.sealing.user_key import KeySource

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2  # items handed out for each worker, so that none waits for the parent


class Work(ABC, Generic[Item, Result]):
    """A picklable function of work items, whose results stay on disk.

    An item may be run more than once (a lost node, a restart), even at the same time: each time the same is written,
    and the second time at once what was written before is read.
    """

    @abstractmethod
    def __call__(self, item: Item) -> Result:
        """Does an item, unless it is done; returns its result."""

    @abstractmethod
    def note(self, item: Item) -> Path:
        """The file that is written last when an item is done. Its name tells it from all other items."""

    def is_done(self, item: Item) -> bool:
        """Whether an item is done, as far as a glance can tell."""
        return self.note(item).exists()


class Map(Protocol):
    """Does work items and yields the results in their order."""

    def __call__(self, work: Work[Item, Result], items: Iterable[Item]) -> Iterator[Result]:
        """Results in the order of `items`; the first failure is raised and the rest is dropped."""


def in_process(work: Work[Item, Result], items: Iterable[Item]) -> Iterator[Result]:
    """The map of one worker: this process."""
    yield from map(work, items)


@contextmanager
def processes(count: int) -> Iterator[Map]:
    """A map over `count` processes, started when first needed; for one worker or one item it is this process."""
    if count == 1:
        yield in_process
        return
    # Spawned, not forked: the parent has threads (progress bar, tokenizers), and a forked lock may never open.
    context = get_context("spawn")
    executor = ProcessPoolExecutor(count, context, initializer=_begin_worker, initargs=(KEYRING.source,))

    def spread(work: Work[Item, Result], items: Iterable[Item]) -> Iterator[Result]:
        coming = iter(items)
        first = list(islice(coming, 2))
        if len(first) <= 1:
            return in_process(work, first)
        return _ordered(executor, work, chain(first, coming), ahead=AHEAD * count)

    try:
        yield spread
    finally:
        executor.shutdown(cancel_futures=True)


def _ordered(
    executor: ProcessPoolExecutor, work: Work[Item, Result], items: Iterable[Item], *, ahead: int
) -> Iterator[Result]:
    """Results in order, with at most `ahead` items handed out at a time."""
    running: deque[Future[Any]] = deque()
    try:
        for item in items:
            running.append(executor.submit(work, item))
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


def _begin_worker(source: KeySource | None) -> None:
    """Leaves Ctrl-C to the parent, and ends this worker when the parent is gone, even by kill -9."""
    KEYRING.use(source)
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

"""Files that are copied by several threads at once, with progress; the first that fails ends all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from trainer.data.share.placing import Advance
from trainer.data.text.progress import ProgressBar

WORKERS = 8  # files that are under way at once


@dataclass(frozen=True)
class Copying:
    """A file's bytes, and what copies it; that tells `advance` of each piece."""

    bytes: int
    copy: Callable[[Advance], None]


class _Ended(Exception):
    """Another file has failed."""


def copy_all(stage: str, work: Sequence[Copying], workers: int = WORKERS) -> None:
    """Copies all; the first error that there is, once the threads have let go of what they had begun."""
    ended, mutex = threading.Event(), threading.Lock()
    with ProgressBar(stage, sum(each.bytes for each in work)) as bar, ThreadPoolExecutor(workers) as pool:

        def advance(count: int) -> None:
            if ended.is_set():
                raise _Ended
            with mutex:
                bar.advance(bytes=count)

        futures = [pool.submit(each.copy, advance) for each in work]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            ended.set()
            for future in futures:
                future.cancel()
            raise


def ask_all(work: Sequence[Callable[[], bool]], workers: int = WORKERS) -> list[bool]:
    """The answers to questions, several at once, in their order."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda ask: ask(), work))

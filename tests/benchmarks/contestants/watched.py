"""Banyan as contestants/banyan.py has it, and an account of what watching costs it, part by part.

After each turn it reports processor seconds by part since its start: of the training thread, those within the part's
functions but for other parts' in them; of other threads and processes, all that is watching's own.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.contestants import banyan

SECTIONS = "sections of a step"
THREADS = {"watchdog": "watchdog's thread", "wandb-AsyncioManager-main": "W&B's thread"}  # by their names


class Account:
    """Processor seconds by part, of the thread that makes it. Parts may be within each other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inside = [0.0]  # what parts within the open ones have taken

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts what is done within."""
        self._inside.append(0.0)
        began = time.thread_time()
        try:
            yield
        finally:
            whole = time.thread_time() - began
            self.seconds[name] = self.seconds.get(name, 0.0) + whole - self._inside.pop()
            self._inside[-1] += whole

    def count(self, owner: Any, method: str, name: str) -> None:
        """Counts every call of a function from now on."""
        function = getattr(owner, method)

        @functools.wraps(function)
        def counted(*arguments: Any, **options: Any) -> Any:
            with self.part(name):
                return function(*arguments, **options)

        setattr(owner, method, counted)

    def count_sections(self, owner: Any) -> None:
        """Counts how a section of a step is begun and ended, not what is done in it."""
        section: Callable[..., contextlib.AbstractContextManager[None]] = owner.section

        @contextlib.contextmanager
        def counted(*arguments: Any) -> Iterator[None]:
            with self.part(SECTIONS):
                inner = section(*arguments)
                inner.__enter__()
            yield
            with self.part(SECTIONS):
                inner.__exit__(None, None, None)

        owner.section = counted


def open_account() -> Account:
    """An account of all that watches a run of one rank."""
    from trainer.engine import loop
    from trainer.engine.energy_use import EnergyUse
    from trainer.engine.row_losses import RowLosses
    from trainer.engine.step_times import StepTimes
    from trainer.engine.stragglers import Stragglers
    from trainer.ranks.watchdog import Watchdog
    from trainer.track.sinks.console import PlainConsole
    from trainer.track.sinks.journals import JournalSink
    from trainer.track.sinks.wandb_run import WandbRun
    from trainer.track.spikes import SpikeWatch
    from trainer.track.tracker import Tracker

    account = Account()
    account.count_sections(StepTimes)
    for owner, method, name in (
        (StepTimes, "end_step", SECTIONS),
        (StepTimes, "pause_ended", SECTIONS),
        (Stragglers, "after_step", "comparison of ranks"),
        (Stragglers, "metrics", "comparison of ranks"),
        *((RowLosses, each, "losses by row") for each in ("begin_step", "add", "by_position")),
        (loop, "mean_by_position", "losses by row"),
        (Watchdog, "beat", "beats"),
        (EnergyUse, "metrics", "energy's counters"),
        (SpikeWatch, "judge", "rule of spikes"),
        (JournalSink, "row", "metrics.jsonl"),
        (PlainConsole, "row", "console and log"),
        (WandbRun, "row", "W&B, a row"),
        *((Tracker, each, "the rest of a row") for each in ("log", "progress")),
        (loop.Trainer, "_log_step", "the rest of a row"),
    ):
        account.count(owner, method, name)
    return account


def of_others() -> dict[str, float]:
    """Processor seconds of watching's threads, and of the processes that this one has started."""
    names = {thread.native_id: THREADS[thread.name] for thread in threading.enumerate() if thread.name in THREADS}
    found = {name: _thread_seconds(native_id) for native_id, name in names.items() if native_id is not None}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            found[process.name()] = found.get(process.name(), 0.0) + times.user + times.system
    return found


def _thread_seconds(native_id: int) -> float:
    try:
        return int(Path(f"/proc/self/task/{native_id}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def main() -> int:
    """Trains in turns, as the contestant does."""
    account = open_account()
    return banyan.main(lambda: {"account": account.seconds | of_others()})


if __name__ == "__main__":
    main()

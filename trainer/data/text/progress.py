"""What prepare says as it goes: lines, and the progress of a stage, a bar on a terminal or a line every few seconds."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from trainer.machine.terminal import one_line

LINE_EVERY_S = 5.0
MEGABYTE = 1e6


def bytes_in_words(size: int) -> str:
    """A size in bytes as people say it."""
    return f"{size / MEGABYTE:,.1f} MB" if size >= MEGABYTE / 10 else f"{size / 1e3:,.1f} kB"


def say(subject: str, what: str) -> None:
    """One line, flushed, so that it shows at once in a log file too; escaped as far as the console can't show it."""
    encoding = sys.stdout.encoding or "utf-8"
    line = f"{subject:<10} {one_line(what)}"
    print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)


class ProgressBar:
    """A stage with `total` bytes to do. Use it as a context; when it ends well it prints one line of what was done."""

    def __init__(self, stage: str, total: int) -> None:
        self.stage = stage
        self.total = total
        self.bytes = 0
        self.tokens = 0
        self._bar: Any = None

    def __enter__(self) -> ProgressBar:
        self._began = self._printed = time.monotonic()
        if sys.stdout.isatty():
            self._bar, self._task = _bar(self.stage, self.total)
            self._bar.start()
        return self

    def advance(self, *, bytes: int, tokens: int = 0) -> None:
        """Counts what was done, and shows it if it's time to."""
        self.bytes += bytes
        self.tokens += tokens
        if self._bar is not None:
            self._bar.update(self._task, completed=self.bytes, rates=self._rates())
        elif time.monotonic() - self._printed >= LINE_EVERY_S:
            self._printed = time.monotonic()
            share = self.bytes / max(1, self.total)
            print(f"{self.stage:<10} {share:4.0%} of {bytes_in_words(self.total)}, {self._rates()}", flush=True)

    def _rates(self) -> str:
        seconds = max(1e-9, time.monotonic() - self._began)
        rates = f"{self.bytes / MEGABYTE / seconds:,.1f} MB/s"
        return rates + (f", {self.tokens / seconds:,.0f} tokens/s" if self.tokens else "")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if kind is None:
            seconds = time.monotonic() - self._began
            tokens = f", {self.tokens:,} tokens" if self.tokens else ""
            done = f"{bytes_in_words(self.bytes)}{tokens} in {seconds:.1f} s"
            print(f"{self.stage:<10} {done} ({self._rates()})", flush=True)


def _bar(stage: str, total: int) -> tuple[Any, Any]:
    """A rich progress bar that vanishes when done, and its task."""
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rates]}"),
        TimeRemainingColumn(),
    )
    bar = RichProgress(*columns, transient=True)
    return bar, bar.add_task(stage, total=total, rates="")

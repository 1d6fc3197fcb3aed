"""What a person watches: a progress bar on a terminal, plain lines elsewhere. Evaluations get a line of their own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trainer.track.sinks.journal import Row
from trainer.track.sinks.sink import Sink, Start

if TYPE_CHECKING:
    import rich.console
    import rich.progress

SHOWN = logging.getLogger("banyan.console")  # the rank's log of what a terminal shows, or would


def open_sink(start: Start, say: Callable[[str], None]) -> Sink:
    """A progress bar if standard output is a terminal, else plain lines; with track.console=quiet neither."""
    if start.config.track.console == "quiet":
        return QuietConsole(Pace(total_steps=start.total_steps))
    return open_console(total_steps=start.total_steps, start_step=start.start_step)


def open_console(*, total_steps: int, start_step: int) -> BarConsole | PlainConsole:
    """What open_sink returns, from the two numbers that it needs."""
    import rich.console

    terminal = rich.console.Console(highlight=False)
    pace = Pace(total_steps=total_steps)
    if terminal.is_terminal:
        return BarConsole(terminal, pace, start_step=start_step)
    return PlainConsole(pace)


class Pace:
    """Time left, from the mean time per step since the first step that ended (the first one compiles and warms up)."""

    def __init__(self, *, total_steps: int) -> None:
        self.total_steps = total_steps
        self._first: tuple[int, float] | None = None

    def seconds_left(self, step: int, now_s: float | None = None) -> float | None:
        """Seconds until the last step; None until two steps have been seen."""
        now_s = time.monotonic() if now_s is None else now_s
        if self._first is None:
            self._first = (step, now_s)
        first_step, first_s = self._first
        if step <= first_step:
            return None
        return (now_s - first_s) / (step - first_step) * max(0, self.total_steps - step)


def row_lines(row: Row, pace: Pace) -> Iterator[str]:
    """A line for the training metrics of a row and one for each evaluated set."""
    step, total_steps = row["step"], pace.total_steps
    if "train/loss" in row:
        yield training_line(step, total_steps, row, pace.seconds_left(step))
    yield from evaluation_lines(step, total_steps, row)


class QuietConsole(Sink):
    """Prints notes alone. What others print goes to the rank's log, which `banyan status` and `banyan logs` read."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace

    def row(self, row: Row) -> None:
        """Logs the lines that are printed elsewhere."""
        for line in row_lines(row, self._pace):
            SHOWN.info(line)

    def progress(self, step: int) -> None:
        """Keeps the time."""
        self._pace.seconds_left(step)

    def note(self, line: str) -> None:
        """Prints a line at once."""
        print(line, flush=True)


class PlainConsole(Sink):
    """One line per logged step, for files, pipes and schedulers' logs."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace

    def row(self, row: Row) -> None:
        """Prints a line for the training metrics and one for each evaluated set."""
        for line in row_lines(row, self._pace):
            self.note(line)

    def progress(self, step: int) -> None:
        """Prints nothing: only logged steps make a line."""
        self._pace.seconds_left(step)

    def note(self, line: str) -> None:
        """Prints a line at once."""
        print(line, flush=True)


class BarConsole(Sink):
    """A rich progress bar with loss, tokens per second and time left."""

    def __init__(self, terminal: rich.console.Console, pace: Pace, *, start_step: int) -> None:
        self._terminal = terminal
        self._pace = pace
        self._bar = _progress_bar(terminal)
        self._task = self._bar.add_task("step", total=pace.total_steps, completed=start_step, figures="", left="")
        self._figures: dict[str, str] = {}
        self._bar.start()

    def row(self, row: Row) -> None:
        """Moves the bar; prints a line above it for each evaluated set."""
        if "train/loss" in row:
            self._figures["loss"] = f"loss {row['train/loss']:.3f}"
            SHOWN.info(training_line(row["step"], self._pace.total_steps, row, self._pace.seconds_left(row["step"])))
        if "perf/tokens_per_second" in row:
            self._figures["speed"] = f"{row['perf/tokens_per_second']:,.0f} tok/s"
        self.progress(row["step"])
        for line in evaluation_lines(row["step"], self._pace.total_steps, row):
            self.note(line)

    def progress(self, step: int) -> None:
        """Moves the bar to a step; the figures of the last row stay."""
        left_s = self._pace.seconds_left(step)
        left = "" if left_s is None else f"left {duration(left_s)}"
        figures = "  ".join(self._figures[key] for key in ("loss", "speed") if key in self._figures)
        self._bar.update(self._task, completed=step, figures=figures, left=left)

    def note(self, line: str) -> None:
        """Prints a line above the bar, as it is: brackets are no markup."""
        SHOWN.info(line)
        self._terminal.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self, *, exit_code: int, summary: Mapping[str, Any]) -> None:
        """Stops the refresh; the bar stays as it is."""
        self._bar.stop()


def training_line(step: int, total_steps: int, metrics: Mapping[str, float], left_s: float | None) -> str:
    """`step 120/450  loss 4.812  grad 0.93  lr 2.9e-4  5,812 tok/s  left 1m08s`; what isn't measured is left out."""
    shown = (
        ("train/loss", lambda value: f"loss {value:.3f}"),
        ("train/grad_norm", lambda value: f"grad {value:.2f}"),
        ("train/lr", lambda value: f"lr {learning_rate(value)}"),
        ("perf/tokens_per_second", lambda value: f"{value:,.0f} tok/s"),
        ("perf/mfu", lambda value: f"mfu {value:.1%}"),
    )
    parts = [_counter(step, total_steps)]
    parts += [show(metrics[key]) for key, show in shown if key in metrics]
    parts += [
        f"{key.removeprefix('train/').removesuffix('/loss')} {loss:.3f}"  # of a mixture's datasets
        for key, loss in metrics.items()
        if key.startswith("train/") and key.endswith("/loss") and key != "train/loss"
    ]
    parts += [] if left_s is None else [f"left {duration(left_s)}"]
    return "  ".join(parts)


def evaluation_lines(step: int, total_steps: int, metrics: Mapping[str, float]) -> list[str]:
    """`step 120/450  validation loss 4.701  1.923 bits/byte`, a line per evaluated set, its sources, or task."""
    lines = []
    tasks: dict[str, list[str]] = {}
    groups: dict[str, list[str]] = {}
    sets = {key.rpartition("/")[0] for key in metrics if key.startswith("eval/") and key.endswith("/loss")}
    for key, loss in metrics.items():
        if key.startswith("eval/") and key.endswith("/loss"):
            name = key.removeprefix("eval/").removesuffix("/loss")
            bits = metrics.get(f"eval/{name}/bits_per_byte")
            parts = [_counter(step, total_steps), f"{name} loss {loss:.3f}"]
            lines.append("  ".join(parts + ([] if bits is None else [f"{bits:.3f} bits/byte"])))
        elif key.startswith("eval/") and key.rpartition("/")[0] not in sets and not key.endswith("/bigram_loss"):
            task, _, metric = key.removeprefix("eval/").rpartition("/")
            kind, _, group = task.rpartition("/")
            if f"eval/{kind.partition('/')[0]}" in sets and kind.endswith(("/source", "/language")):
                if metric == "bits_per_byte":
                    groups.setdefault(kind.replace("/", " by ", 1), []).append(f"{group} {loss:.3f}")
                continue
            tasks.setdefault(task, []).append(f"{metric} {loss:.4f}")
    lines += [f"{_counter(step, total_steps)}  {kind}, bits/byte: {', '.join(each)}" for kind, each in groups.items()]
    return lines + ["  ".join([_counter(step, total_steps), task, *parts]) for task, parts in tasks.items()]


def learning_rate(value: float) -> str:
    """2.9e-4 rather than Python's 2.9e-04."""
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def duration(seconds: float) -> str:
    """8s, 1m08s, 2h05m or 3d04h: the two largest units."""
    whole = round(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return f"{days}d{hours % 24:02d}h"
    if hours:
        return f"{hours}h{minutes % 60:02d}m"
    return f"{minutes}m{whole % 60:02d}s" if minutes else f"{whole}s"


def _counter(step: int, total_steps: int) -> str:
    return f"step {step:>{len(str(total_steps))}}/{total_steps}"


def _progress_bar(terminal: rich.console.Console) -> rich.progress.Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[figures]}"),
        TextColumn("{task.fields[left]}"),
        console=terminal,
        expand=True,
        refresh_per_second=4,
    )

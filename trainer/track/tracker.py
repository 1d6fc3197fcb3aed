"""Where the numbers of a run go: a list of sinks behind one `log`. Rank 0 alone holds a Tracker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainer.machine.durable import write_json
from trainer.track.sinks import alerts, console, journal, tensorboard, wandb_run
from trainer.track.sinks.journal import metric_row, sample_row
from trainer.track.sinks.sink import Sink, Start

FACTS = "facts.json"  # what was found out at the start; `banyan sync` needs it again

# The durable record comes first; what the others have to say at their opening goes through those before them.
OPENERS: tuple[Callable[[Start, Callable[[str], None]], Sink | None], ...] = (
    journal.open_sink,
    console.open_sink,
    alerts.open_sink,  # before W&B's, which ends before they are sent otherwise
    wandb_run.open_sink,
    tensorboard.open_sink,
)


class Tracker:
    """Hands what is logged to every sink, in their order."""

    def __init__(self) -> None:
        self._sinks: list[Sink] = []

    @staticmethod
    def open(start: Start) -> Tracker:
        """Opens the sinks that the configuration asks for; those that are open are closed if one refuses."""
        tracker = Tracker()
        write_json(start.run_dir / FACTS, start.facts, sync_folder=False)  # the next start writes it again
        try:
            for open_sink in OPENERS:
                sink = open_sink(start, tracker.note)
                if sink is not None:
                    tracker._sinks.append(sink)
            for sink in tracker._sinks:
                sink.opened(tracker._sinks)
        except BaseException:
            tracker.close(exit_code=1, summary={})
            raise
        return tracker

    def log(self, *, step: int, tokens: int, metrics: Mapping[str, float]) -> None:
        """Logs metrics of a step.

        More than one call for a step is fine (training, then evaluation) as long as their keys differ.
        """
        row = metric_row(step=step, tokens=tokens, metrics=metrics)
        for sink in self._sinks:
            sink.row(row)

    def text(self, *, step: int, name: str, text: str) -> None:
        """Logs a text sample: a line of samples.jsonl, and in W&B `samples/NAME`."""
        row = sample_row(step=step, name=name, text=text)
        for sink in self._sinks:
            sink.sample(row)

    def checkpoint(self, complete: Path, step: int) -> None:
        """Names the last checkpoint of this process's part of the run, by its file COMPLETE."""
        for sink in self._sinks:
            sink.checkpoint(complete, step)

    def note(self, line: str) -> None:
        """Prints a line, above the progress bar if there is one."""
        for sink in self._sinks:
            sink.note(line)

    def progress(self, *, step: int) -> None:
        """Moves the progress bar between logged steps; needs no value from the device."""
        for sink in self._sinks:
            sink.progress(step)

    def close(self, *, exit_code: int, summary: Mapping[str, Any]) -> None:
        """Closes every sink (85 isn't a failure: the run will go on)."""
        for sink in self._sinks:
            sink.close(exit_code=exit_code, summary=summary)

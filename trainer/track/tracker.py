"""Where the numbers of a run go: a list of sinks behind one `log`. Rank 0 alone holds a Tracker."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.errors import BanyanError
from trainer.machine.durable import write_json
from trainer.machine.terminal import one_line
from trainer.track.health_record import keep_note
from trainer.track.sinks import alerts, console, journals, spikes, starts, tensorboard, wandb_run
from trainer.track.sinks.journal import Journal, Row, metric_row, sample_row
from trainer.track.sinks.sink import Sink, Start
from trainer.track.spike_record import Documents, SpikeRecord, data_command
from trainer.track.spikes import WATCHED

FACTS = "facts.json"  # what was found out at the start; `banyan sync` needs it again

# The durable records come first, that of starts before the journal is cut; what the others have to say at their opening
# goes through those before them.
OPENERS: tuple[Callable[[Start, Callable[[str], None]], Sink | None], ...] = (
    starts.open_sink,
    journals.open_sink,
    spikes.open_sink,
    console.open_sink,
    alerts.open_sink,  # before W&B's, which ends before they are sent otherwise
    wandb_run.open_sink,
    tensorboard.open_sink,
)


class Tracker:
    """Hands what is logged to every sink, in their order."""

    def __init__(self, run_dir: Path, documents: Documents) -> None:
        self._sinks: list[Sink] = []
        self._run_dir = run_dir
        self._documents = documents
        self._metrics: Journal | None = None

    @staticmethod
    def open(start: Start, documents: Documents = lambda step, row_losses: ()) -> Tracker:
        """Opens the sinks that the configuration asks for; those that are open are closed if one refuses.

        `documents` finds those of a spike.
        """
        tracker = Tracker(start.run_dir, documents)
        tracker._metrics = start.metrics
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

    def log(
        self,
        *,
        step: int,
        tokens: int,
        metrics: Mapping[str, float],
        limits: Mapping[str, float] | None = None,
        row_losses: Sequence[float | None] | None = None,
    ) -> None:
        """Logs metrics of a step; with `limits`, of what it exceeds, it is a spike, of whose rows `row_losses` are.

        More than one call for a step is fine (training, then evaluation) as long as their keys differ.
        """
        row = metric_row(step=step, tokens=tokens, metrics=metrics)
        for sink in self._sinks:
            sink.row(row)
        if limits:
            figures = {name: row[name] for name in WATCHED if name in row}
            self.spike(step=step, tokens=tokens, figures=figures, limits=limits, row_losses=row_losses)
            shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            self.note(one_line(f"spike at step {step} ({shown}); its documents: {data_command(self._run_dir, step)}"))

    def spike(
        self,
        *,
        step: int,
        tokens: int,
        figures: Mapping[str, float] | None = None,
        limits: Mapping[str, float] | None = None,
        outcome: str = "",
        row_losses: Sequence[float | None] | None = None,
    ) -> None:
        """Records a spike with its documents; `outcome` is what was done about it."""
        problem = ""
        try:
            documents = tuple(self._documents(step, row_losses))
        except (BanyanError, OSError) as error:
            documents, problem = (), str(error)
        spike = SpikeRecord(
            step=step,
            tokens=tokens,
            time=round(time.time(), 3),
            command=data_command(self._run_dir, step),
            figures={**(figures or {})},
            limits={**(limits or {})},
            outcome=outcome,
            documents=documents,
            problem=problem,
        )
        for sink in self._sinks:
            sink.spike(spike)

    def logged_after(self, step: int) -> list[Row]:
        """The rows of metrics.jsonl of the steps after a step, NaN where a value wasn't finite."""
        return [] if self._metrics is None else self._metrics.rows_after(step)

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

    def health(self, about: str, line: str) -> None:
        """Says something of the run's health, and keeps it."""
        keep_note(self._run_dir, about, line)
        self.note(line)

    def rewind(self, *, step: int) -> None:
        """Goes back to a step, as a resume does: rows after it are no longer the run's."""
        for sink in self._sinks:
            sink.rewind(step)

    def progress(self, *, step: int) -> None:
        """Moves the progress bar between logged steps; needs no value from the device."""
        for sink in self._sinks:
            sink.progress(step)

    def close(self, *, exit_code: int, summary: Mapping[str, Any]) -> None:
        """Closes every sink (85 isn't a failure: the run will go on)."""
        for sink in self._sinks:
            sink.close(exit_code=exit_code, summary=summary)

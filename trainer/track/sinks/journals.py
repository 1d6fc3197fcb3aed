"""What a run logs, kept in its directory: metrics.jsonl and samples.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainer.track.sinks.journal import LAYERS, METRICS, SAMPLES, Journal, Row
from trainer.track.sinks.sink import Sink, Start


class JournalSink(Sink):
    """metrics.jsonl and samples.jsonl of a run directory."""

    def __init__(self, run_dir: Path, step: int, metrics: Journal | None = None) -> None:
        self._run_dir = run_dir
        self._metrics = metrics or Journal(run_dir / METRICS)
        self._samples = Journal(run_dir / SAMPLES)
        self.rewind(step)

    def row(self, row: Row) -> None:
        """A line of metrics.jsonl."""
        self._metrics.write(row)

    def rewind(self, step: int) -> None:
        """Cuts both, and layers.jsonl, to the rows up to a step, as the next start would."""
        self._metrics.cut(step)
        self._samples.cut(step)
        if (self._run_dir / LAYERS).exists():
            layers = Journal(self._run_dir / LAYERS)
            layers.cut(step)
            layers.close()

    def sample(self, row: Row) -> None:
        """A line of samples.jsonl."""
        self._samples.write(row)

    def close(self, *, exit_code: int, summary: Mapping[str, Any]) -> None:
        """Closes both."""
        self._metrics.close()
        self._samples.close()


def open_sink(start: Start, say: Callable[[str], None]) -> Sink:
    """The journals, cut to the step that the run goes on from."""
    return JournalSink(start.run_dir, start.start_step, start.metrics)

"""track.tensorboard=true: TensorBoard event files in RUN/tensorboard, which any TensorBoard reads.

tensorboard --logdir runs
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainer.errors import ConfigError
from trainer.track.sinks.journal import AXES, Row
from trainer.track.sinks.sink import Sink, Start
from trainer.track.spike_record import SpikeRecord

FOLDER = "tensorboard"


class TensorBoard(Sink):
    """Scalars by step. A run that goes on hides what an interrupted one wrote after its checkpoint (purge_step)."""

    def __init__(self, folder: Path, *, start_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "track.tensorboard=true needs TensorBoard: pip install 'banyan-train[tensorboard]', or leave it out."
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=start_step + 1 if start_step else None)

    def row(self, row: Row) -> None:
        """A scalar for each metric."""
        for name, value in row.items():
            if name not in AXES:
                self._writer.add_scalar(name, value, row["step"], walltime=row["time"])
        self._writer.flush()

    def sample(self, row: Row) -> None:
        """A text, as it is."""
        self._writer.add_text(row["name"], f"<pre>{_escaped(row['text'])}</pre>", row["step"], walltime=row["time"])

    def spike(self, spike: SpikeRecord) -> None:
        """A text: the command, and the documents' names."""
        columns, rows = spike.table()
        lines = [spike.command, "\t".join(columns[:-1]), *("\t".join(map(str, row[:-1])) for row in rows)]
        self._writer.add_text("health/spike", f"<pre>{_escaped(chr(10).join(lines))}</pre>", spike.step)

    def close(self, *, exit_code: int, summary: Mapping[str, Any]) -> None:
        """Closes the event file."""
        self._writer.close()


def _escaped(text: str) -> str:
    """For TensorBoard, which renders Markdown and HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def open_sink(start: Start, say: Callable[[str], None]) -> Sink | None:
    """The sink, if track.tensorboard asks for it. ConfigError without the package."""
    if not start.config.track.tensorboard:
        return None
    return TensorBoard(start.run_dir / FOLDER, start_step=start.start_step)

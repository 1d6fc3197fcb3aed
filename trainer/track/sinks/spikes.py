"""spikes.jsonl, appended spike by spike, and a line for whoever watches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trainer.errors import StorageError
from trainer.machine.durable import require_plain_file
from trainer.track.sinks.sink import Sink, Start
from trainer.track.spike_record import FILE, SpikeRecord, cut_spikes, encode_spike


class SpikeSink(Sink):
    """Writes spikes down."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    def spike(self, spike: SpikeRecord) -> None:
        """A line of the file, which isn't there before the first."""
        path = self._run_dir / FILE
        require_plain_file(path)
        try:
            with path.open("ab") as file:
                file.write(encode_spike(spike))
        except OSError as error:
            raise StorageError(f"{path}: could not be written ({error.strerror}). Make room there.") from error

    def rewind(self, step: int) -> None:
        """Cuts the file to the spikes up to a step."""
        cut_spikes(self._run_dir, step)


def open_sink(start: Start, say: Callable[[str], None]) -> Sink:
    """The sink, its file cut to the step that the run goes on from."""
    cut_spikes(start.run_dir, start.start_step)
    return SpikeSink(start.run_dir)

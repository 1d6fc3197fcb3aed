"""A place where a run's numbers go: the seam. One more is a file here and a row of `OPENERS` in tracker.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config import Pretrain
from trainer.track.sinks.journal import METRICS, Journal, Row

if TYPE_CHECKING:
    from trainer.track.spike_record import SpikeRecord


@dataclass(frozen=True)
class Start:
    """What a sink is opened with: a run as it begins, or goes on after `start_step`.

    `stored_config` is the configuration as config.yaml has it, `facts` what was found out at the start: dataset
    fingerprints, git commit, world size, parameter count.
    """

    run_dir: Path
    config: Pretrain
    stored_config: dict[str, Any]
    facts: dict[str, Any]
    start_step: int
    total_steps: int

    @cached_property
    def metrics(self) -> Journal:
        """metrics.jsonl, opened once for all who look into it: on a shared disk each open of a start counts."""
        return Journal(self.run_dir / METRICS)


class Sink:
    """Gets what is logged, on rank 0; by default it ignores it."""

    def opened(self, sinks: Sequence[Sink]) -> None:
        """All sinks are open; `sinks` are they."""

    @property
    def tells_people(self) -> bool:
        """Whether this sink has a way of its own to tell people, at once."""
        return False

    def alert(self, kind: str, text: str) -> None:
        """Tells people, where `tells_people`."""

    def row(self, row: Row) -> None:
        """Metrics of a step. A step may have several rows, whose keys differ: training, then evaluation."""

    def sample(self, row: Row) -> None:
        """A sample of text."""

    def spike(self, spike: SpikeRecord) -> None:
        """A step that stands out; its row has been logged."""

    def checkpoint(self, complete: Path, step: int) -> None:
        """The last checkpoint of this process's part of the run, by its file COMPLETE."""

    def note(self, line: str) -> None:
        """A line for whoever watches."""

    def rewind(self, step: int) -> None:
        """The run goes back to a step; rows after it will come again, with other values."""

    def progress(self, step: int) -> None:
        """A step without a row; nothing is known of it but its number."""

    def close(self, *, exit_code: int, summary: Mapping[str, Any]) -> None:
        """The end of this process's part of the run; 85 isn't a failure: the run will go on."""

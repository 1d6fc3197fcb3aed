"""What a page says of a run. What isn't known is None or empty, and said so or left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trainer.data.tokens.history import Rewind
from trainer.report.run_page.journal import RunSeries
from trainer.report.run_page.layers import LayerMaps
from trainer.track.alerts import Alert
from trainer.track.health_record import HealthNote
from trainer.track.sinks.starts import Life
from trainer.track.spike_record import SpikeRecord


@dataclass(frozen=True)
class SpikeDocument:
    """A document of a step: `surprise` is how unlikely its tokens are by their counts in other steps, nats a token."""

    source: str
    record: int
    tokens: int
    surprise: float
    text: str


@dataclass(frozen=True)
class SpikeStory:
    """A spike, and its most surprising documents with their texts; why there are none, if so."""

    spike: SpikeRecord
    documents: tuple[SpikeDocument, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class HangRecord:
    """The last hang: when, what the watchdog said, and where each rank was."""

    time: float
    report: str
    ranks: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class HealthRecord:
    """What was said of a run's health. `problems` are of files that can't be read."""

    notes: tuple[HealthNote, ...] = ()
    skipped: tuple[int, ...] = ()
    rewinds: tuple[Rewind, ...] = ()
    hang: HangRecord | None = None
    alerts: tuple[Alert, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlanRow:
    """Something that `banyan plan` predicts, beside what was measured; texts with their units."""

    what: str
    predicted: str
    measured: str
    difference: str = ""


@dataclass(frozen=True)
class OperatorTable:
    """The dearest operators of a profiled rank; times in microseconds."""

    rank: int
    steps: str
    device: str
    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class RunRecord:
    """A run. `config` is flat, by dotted keys; `reasons` are why each start but the last ended."""

    name: str
    run_dir: str
    state: str
    reason: str
    series: RunSeries
    lives: tuple[Life, ...] = ()
    reasons: tuple[str, ...] = ()
    samples: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    samples_total: int = 0
    spikes: tuple[SpikeStory, ...] = ()  # the greatest
    all_spikes: tuple[SpikeRecord, ...] = ()
    health: HealthRecord = field(default_factory=HealthRecord)
    layers: LayerMaps = field(default_factory=LayerMaps)
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    flops_per_token: float | None = None
    flops_formula: str = ""
    plan: tuple[PlanRow, ...] = ()
    plan_problem: str = ""
    profile: tuple[OperatorTable, ...] = ()
    profile_files: tuple[str, ...] = ()
    command: str = ""
    energy: tuple[str, str] = ("not measured", "energy")  # a figure, and how it came about
    energy_rows: tuple[tuple[str, str], ...] = ()

    @property
    def began(self) -> float | None:
        """When it first started, or logged first; unix seconds."""
        if self.lives:
            return self.lives[0].start.time
        rows = self.series.moments.rows()
        return rows[0][2] if rows else None

    def last(self, metric: str) -> float | None:
        """The last value of a metric."""
        series = self.series.metrics.get(metric)
        point = series.last if series is not None else None
        return point[1] if point is not None else None

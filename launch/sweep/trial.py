"""A trial on disk: SWEEP/trials/00007/trial.json, its log, and its run directory or, under pbt, one for each segment.

The process that runs a trial writes trial.json, nobody else; the sweep leaves an empty file beside it where its
scheduler stops a trial early.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.sweep.plan import SweepPlan
from launch.sweep.space import Values
from trainer.machine.durable import make_folder, write_json, write_text
from trainer.track.sinks.journal import read_metrics

FILE = "trial.json"
STOPPED_EARLY = "stopped-early"

WAITING, RUNNING = "waiting", "running"
FINISHED, STOPPED, DIVERGED, FAILED = "finished", "stopped", "diverged", "failed"
FINAL_STATES = (FINISHED, STOPPED, DIVERGED)
"""States that the same command again leaves alone; a trial that failed is tried again."""


@dataclass
class TrialSegment:
    """A run of a trial: its values, and what it went on from, RUN_DIR@STEP."""

    values: Values
    fork_from: str | None = None


@dataclass(frozen=True)
class Point:
    """What a trial reports: the metric after a step."""

    step: int
    tokens: int
    loss: float


@dataclass
class Trial:
    """One trial of a sweep."""

    folder: Path
    number: int
    has_segments: bool
    state: str = WAITING
    error: str = ""
    segments: list[TrialSegment] = field(default_factory=list)

    @staticmethod
    def open(plan: SweepPlan, number: int) -> Trial:
        """The trial as its folder has it; one that is still to come has none."""
        folder = plan.folder / "trials" / f"{number:05d}"
        trial = Trial(folder, number, plan.has_segments)
        if (folder / FILE).is_file():
            stored: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
            trial.segments = [TrialSegment(**segment) for segment in stored["segments"]]
            trial.state, trial.error = stored["state"], stored["error"]
            if trial.state == RUNNING and (folder / STOPPED_EARLY).exists():
                trial.state = STOPPED
        return trial

    @property
    def name(self) -> str:
        """Its number as it is written everywhere."""
        return f"{self.number:05d}"

    @property
    def values(self) -> Values:
        """What it sets now."""
        return self.segments[-1].values if self.segments else {}

    @property
    def run_dir(self) -> Path:
        """The run directory that it writes now."""
        return self.run_dir_of(len(self.segments) - 1)

    @property
    def log(self) -> Path:
        """What its processes print."""
        return self.folder / "log.txt"

    def run_dir_of(self, segment: int) -> Path:
        """The run directory of a segment."""
        return self.folder / f"segment-{segment:02d}" if self.has_segments else self.folder

    def begin(self, values: Values, fork_from: str | None = None) -> None:
        """Begins its first segment, or goes on from another trial's checkpoint in a new one."""
        make_folder(self.folder)
        self.segments.append(TrialSegment(dict(values), fork_from))
        self.write(RUNNING)

    def write(self, state: str, error: str = "") -> None:
        """Keeps its state."""
        self.state, self.error = state, error
        segments = [dataclasses.asdict(segment) for segment in self.segments]
        write_json(self.folder / FILE, {"state": state, "error": error, "segments": segments})

    def mark_stopped(self) -> None:
        """Keeps that the scheduler stopped it early. The sweep calls it."""
        write_text(self.folder / STOPPED_EARLY, "")

    def points(self, plan: SweepPlan) -> list[Point]:
        """What it has measured on its way: in each segment up to where the next one began, by step."""
        points: list[Point] = []
        for number, segment in enumerate(self.segments):
            begun = int(segment.fork_from.rpartition("@")[2]) if segment.fork_from else 0
            rows = read_metrics(self.run_dir_of(number))
            losses = [(row, plan.loss_in(row)) for row in rows]
            found = [Point(row["step"], row["tokens"], loss) for row, loss in losses if loss is not None]
            points = [point for point in points if point.step <= begun or not segment.fork_from]
            points += [point for point in found if point.step > begun]
        return points


def all_trials(plan: SweepPlan) -> list[Trial]:
    """The trials that have begun, by number."""
    folders = sorted((plan.folder / "trials").glob("[0-9]*"))
    return [Trial.open(plan, int(folder.name)) for folder in folders if (folder / FILE).is_file()]

"""What a page needs of metrics.jsonl and samples.jsonl, read once, line by line, in bounded memory."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.errors import InputError
from trainer.machine.json_file import Malformed, open_regular
from trainer.report.run_page.layers import LayerMaps
from trainer.report.run_page.spikes import SpikeFinder
from trainer.report.run_page.thinned import Thinned
from trainer.track.sinks.journal import LAYERS, METRICS, NO_METRICS, SAMPLES, Row
from trainer.track.spikes import SpikeRule

LONGEST_LINE = 1 << 22  # bytes
MOST_METRICS = 1000
LONGEST_NAME = 200  # characters of a metric
MOST_MOMENTS = 2000  # rows of the table of steps, tokens and times
MOST_GAPS = 100  # between rows, the longest, both of whose ends are in that table
MOST_SAMPLES = 12  # of each name, evenly spread
MOST_NAMES = 40  # of samples
LONGEST_SAMPLE = 4000  # characters


@dataclass
class Moments:
    """Which tokens and which time a step stands for: rows at even distances, and both ends of the longest gaps."""

    stride: int = 1
    _rows: list[tuple[int, int, float]] = field(default_factory=list)
    _gaps: list[tuple[float, int, tuple[int, int, float], tuple[int, int, float]]] = field(default_factory=list)
    _count: int = 0
    _last: tuple[int, int, float] | None = None

    def add(self, step: int, tokens: int, time: float) -> None:
        """The next row."""
        row = (step, tokens, time)
        if self._last is not None:
            gap = (time - self._last[2], self._count, self._last, row)
            (heapq.heappush if len(self._gaps) < MOST_GAPS else heapq.heappushpop)(self._gaps, gap)
        if self._count % self.stride == 0:
            self._rows.append(row)
            if len(self._rows) > MOST_MOMENTS:
                self._rows, self.stride = self._rows[::2], self.stride * 2
        self._count += 1
        self._last = row

    def rows(self) -> list[tuple[int, int, float]]:
        """(step, tokens, time), ascending."""
        ends = [row for _, _, *pair in self._gaps for row in pair]
        return sorted({*self._rows, *ends, *([self._last] if self._last else [])})


@dataclass
class RunSeries:
    """Of a run's metrics.jsonl: every metric thinned, the moments, the spikes, the number of rows."""

    metrics: dict[str, Thinned] = field(default_factory=dict)
    moments: Moments = field(default_factory=Moments)
    spikes: SpikeFinder = field(default_factory=SpikeFinder)
    rows: int = 0
    left_out: set[str] = field(default_factory=set)  # metrics beyond MOST_METRICS

    @property
    def last_tokens(self) -> int:
        """Targets trained on by the last row."""
        return self.moments.rows()[-1][1] if self.rows else 0

    def add(self, row: Row) -> None:
        """The next row."""
        self.rows += 1
        step = row["step"]
        for name, value in row.items():
            if name in NO_METRICS:
                continue
            series = self.metrics.get(name)
            if series is None:
                if len(self.metrics) >= MOST_METRICS or len(name) > LONGEST_NAME:
                    if len(self.left_out) < MOST_METRICS:
                        self.left_out.add(name[:LONGEST_NAME])
                    continue
                series = self.metrics[name] = Thinned()
            if value is None or type(value) in (int, float):
                series.add(step, None if value is None else float(value))
        self.moments.add(step, row["tokens"], row["time"])
        self.spikes.add(row)


def read_series(run_dir: Path, rule: SpikeRule | None = None, every: int = 1) -> RunSeries:
    """The whole of metrics.jsonl; empty where there is none. InputError for a line that isn't a row.

    `rule` finds spikes in rows without a verdict, of a run that logged every so many steps.
    """
    series = RunSeries(spikes=SpikeFinder(rule, every))
    for row in _rows(run_dir / METRICS):
        series.add(row)
    return series


def read_layers(run_dir: Path) -> LayerMaps:
    """The whole of layers.jsonl; empty where there is none. InputError for a line that isn't a row."""
    maps = LayerMaps()
    for line in _rows(run_dir / LAYERS):
        maps.add(line)
    return maps


def read_sample_texts(run_dir: Path) -> tuple[dict[str, list[tuple[int, str]]], int]:
    """Samples of text by name, (step, text), at even distances in each; and how many there are."""
    kept: dict[str, tuple[int, int, list[tuple[int, str]]]] = {}  # seen, stride, kept
    total = 0
    last: dict[str, tuple[int, str]] = {}
    for row in _rows(run_dir / SAMPLES):
        name, text = str(row.get("name", ""))[:LONGEST_NAME], row.get("text")
        if type(text) is not str or (name not in kept and len(kept) >= MOST_NAMES):
            continue
        total += 1
        seen, stride, chosen = kept.get(name, (0, 1, []))
        last[name] = (row["step"], text[:LONGEST_SAMPLE] + "…" * (len(text) > LONGEST_SAMPLE))
        if seen % stride == 0:
            chosen.append(last[name])
            if len(chosen) > MOST_SAMPLES:
                chosen, stride = chosen[::2], stride * 2
        kept[name] = (seen + 1, stride, chosen)
    found = {name: chosen + [last[name]] * (chosen[-1] != last[name]) for name, (_, _, chosen) in kept.items()}
    return found, total


def _rows(path: Path) -> Iterator[Row]:
    """The rows of a journal. A torn last line is left out; any other that isn't a row is refused."""
    try:
        with open_regular(path) as file:
            number = 0
            while line := file.readline(LONGEST_LINE):
                number += 1
                row = _row(line)
                if row is not None:
                    yield row
                elif line.endswith(b"\n") and line.strip():
                    raise InputError(f"{path}, line {number}: not a JSON row with a step. Remove that line.")
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}).") from error
    except Malformed as error:
        raise InputError(f"{path}: {error}. Remove it.") from error


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int or not 0 <= row["step"] < 2**53:
        return None
    tokens, time = row.setdefault("tokens", 0), row.setdefault("time", 0.0)
    if type(tokens) is not int or not 0 <= tokens < 2**63 or type(time) not in (int, float) or not 0 <= time < 1e12:
        return None
    return row

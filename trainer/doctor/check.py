"""A check of an allocation: what each rank measures, and what all of that means. One more is a file in checks/, a row
in examine.py and its name in trainer/config/doctor.py."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.config.doctor import Doctor
from trainer.doctor.board import Board
from trainer.ranks.mesh import Mesh

NAMED = 8  # ranks that a line names at most
FEW = 3  # hosts or ranks of which a median says who is slow


@dataclass(frozen=True)
class Station:
    """Where a check runs. `folder` is on the shared disk, `host` the name by which the scheduler knows this node."""

    mesh: Mesh
    config: Doctor
    folder: Path
    host: str
    board: Board

    @property
    def is_first_of_host(self) -> bool:
        """Whether this rank measures what its host has once."""
        return self.mesh.local_rank == 0


@dataclass(frozen=True)
class RankReading:
    """What one rank has measured; `problem` is what stopped it, in a line."""

    rank: int
    host: str
    values: dict[str, Any]
    problem: str | None = None


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, in a line that says the mend. `hosts` are to blame, if it is some alone."""

    text: str
    hosts: tuple[str, ...] = ()


@dataclass
class Diagnosis:
    """Of one check: what was measured beside what it should be, in lines, and what is wrong."""

    measured: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def blame(self, readings: list[RankReading], text: str, *, among: list[RankReading] | None = None) -> None:
        """A finding about some ranks, if there are any: their names, then `text`.

        Their hosts are to blame, but not where these are all of those that they are `among`: then it is no host's.
        """
        if readings:
            everyone = among is not None and len(readings) == len(among)
            self.findings.append(Finding(f"{name(readings)}: {text}", () if everyone else hosts_of(readings)))


Measure = Callable[[Station], dict[str, Any]]
Judge = Callable[[list[RankReading], Station], Diagnosis]


@dataclass(frozen=True)
class Check:
    """`measure` is called by every rank at the same time, and may use collectives; `judge` by rank 0, of all readings.

    A rank on which `measure` fails is in no reading that `judge` gets; that it failed is a finding.
    """

    name: str
    measure: Measure
    judge: Judge


def by_host(readings: Iterable[RankReading]) -> dict[str, list[RankReading]]:
    """Readings of each host, in their order."""
    found: dict[str, list[RankReading]] = {}
    for reading in readings:
        found.setdefault(reading.host, []).append(reading)
    return found


def one_of_each_host(readings: Iterable[RankReading]) -> list[RankReading]:
    """The first reading of each host."""
    return [group[0] for group in by_host(readings).values()]


def hosts_of(readings: Iterable[RankReading]) -> tuple[str, ...]:
    """The hosts of some readings, each once."""
    return tuple(dict.fromkeys(reading.host for reading in readings))


def name(readings: list[RankReading]) -> str:
    """rank 3 (host n2), rank 5 (host n2) and 2 more."""
    named = ", ".join(f"rank {each.rank} (host {each.host})" for each in readings[:NAMED])
    return f"{named} and {len(readings) - NAMED:,} more" if len(readings) > NAMED else named


def slow_ones(readings: list[RankReading], key: str, share: float) -> tuple[list[RankReading], float]:
    """Readings below `share` of what is usual, and what is: the median, of two the better one."""
    values = [reading.values[key] for reading in readings]
    usual = statistics.median(values) if len(values) >= FEW else max(values)
    return [reading for reading in readings if reading.values[key] < share * usual], usual


def odd_ones(readings: list[RankReading], value: Callable[[RankReading], Any]) -> tuple[list[RankReading], Any]:
    """Readings that have another value than most, and that of most."""
    counts = Counter(value(reading) for reading in readings)
    usual = max(counts, key=lambda each: (counts[each], str(each)))
    return [reading for reading in readings if value(reading) != usual], usual


def range_of_values(values: list[float], unit: str) -> str:
    """12.3 unit, or 10.1 to 12.3 unit."""
    low, high = min(values), max(values)
    return f"{high:.3g} {unit}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g} {unit}"

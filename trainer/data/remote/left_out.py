"""Rows that weren't trained on because their shard couldn't be had (data.on_bad_shard=skip), each accounted for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trainer.machine.durable import write_bytes
from trainer.machine.json_file import Count, Malformed, from_json, parse_json

FILE = "left_out.jsonl"


@dataclass(frozen=True, order=True)
class LeftOutRow:
    """A row by its position in the run, and where it is in the data."""

    position: Count
    dataset: str
    file: str
    row: Count


@dataclass
class RowsLeftOut:
    """The rows that this rank's loader has left out, those ahead of training among them."""

    rows: list[LeftOutRow] = field(default_factory=list)

    def add(self, rows: Iterable[LeftOutRow]) -> None:
        """Notes rows."""
        self.rows.extend(rows)  # of another thread than `take_before`, which leaves what comes meanwhile

    def take_before(self, position: int) -> list[LeftOutRow]:
        """The rows before a position of the run, once: those that training has come by."""
        count = sum(row.position < position for row in self.rows)
        taken, self.rows[:count] = self.rows[:count], []
        return taken


def write_left_out(run_dir: Path, rows: Iterable[LeftOutRow]) -> None:
    """Writes the listing of a run directory: a line of JSON for each row, by position."""
    write_bytes(run_dir / FILE, b"".join(json.dumps(asdict(row)).encode() + b"\n" for row in sorted(rows)))


def read_left_out(run_dir: Path) -> list[LeftOutRow]:
    """The listing of a run directory; [] where no row was left out. Lines that aren't rows are left alone."""
    try:
        lines = (run_dir / FILE).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    rows = []
    for line in lines:
        try:
            rows.append(from_json(LeftOutRow, parse_json(line)))
        except Malformed:
            continue
    return rows

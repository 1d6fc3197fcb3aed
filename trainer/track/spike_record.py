"""spikes.jsonl: each spike of a run with the command that shows its data, and the documents of its worst rows.

Documents are named, by source and record, not quoted: `banyan data at RUN step=N` prints their texts.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainer.errors import InputError
from trainer.machine.durable import require_plain_file, write_bytes
from trainer.machine.json_file import Count, Malformed, Positive, from_json, parse_json, read_regular

FILE = "spikes.jsonl"
SKIPPED, REWOUND = "skipped", "rewound"
MOST_BYTES = 256 * 2**20
COLUMNS = ("position", "row_loss", "dataset", "source", "record", "first", "last", "tokens")


@dataclass(frozen=True)
class StepDocument:
    """A document of a step's batch: its tokens `first` to `last` of `tokens` are in the row at `position` of the order.

    `row_loss` is the loss of that row, by unit; None where it isn't known or finite.
    """

    position: Count
    dataset: str
    source: str
    record: Count
    first: Count
    last: Count
    tokens: Positive
    row_loss: float | None = None


@dataclass(frozen=True)
class SpikeRecord:
    """A spike: what it was of, how to see its data, the documents of its worst rows, or why there are none.

    `limits` are what its figures exceed, where they are known. `outcome` is what was done about it (SKIPPED, REWOUND),
    if anything.
    """

    step: Positive
    tokens: Count
    time: float
    command: str
    figures: dict[str, float | None] = field(default_factory=dict)
    limits: dict[str, float | None] = field(default_factory=dict)
    outcome: str = ""
    documents: tuple[StepDocument, ...] = ()
    problem: str = ""

    def table(self) -> tuple[list[str], list[list[str | int | float | None]]]:
        """Columns and rows of the documents; each row ends in the command."""
        rows = [[getattr(document, name) for name in COLUMNS] for document in self.documents]
        return [*COLUMNS, "command"], [[*row, self.command] for row in rows] or [[None] * len(COLUMNS) + [self.command]]

    def to_json(self) -> dict[str, object]:
        """A JSON object; read_spikes' inverse. What isn't finite is null."""
        return {**dataclasses.asdict(self), "figures": _finite(self.figures), "limits": _finite(self.limits)}


def _finite(values: dict[str, float | None]) -> dict[str, float | None]:
    return {name: value if value is not None and math.isfinite(value) else None for name, value in values.items()}


Documents = Callable[[int, "Sequence[float | None] | None"], Sequence[StepDocument]]
"""Documents of a step's worst rows, given the step and its rows' losses by position, if they are known."""


def data_command(run_dir: Path, step: int) -> str:
    """What shows the data of a step."""
    return f"banyan data at {shlex.quote(str(run_dir))} step={step}"


def read_spikes(run_dir: Path) -> list[SpikeRecord]:
    """The spikes of a run, in order; none if it had none. A line cut short by a kill is left out. InputError."""
    path = run_dir / FILE
    try:
        lines = read_regular(path, most_bytes=MOST_BYTES).split(b"\n")
    except FileNotFoundError:
        return []
    except Malformed as error:
        raise InputError(f"{path}: {error}. Remove it.") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found.append(from_json(SpikeRecord, parse_json(line)))
        except ValueError as error:
            if number == len(lines):
                break
            raise InputError(f"{path}, line {number}: {error}. Remove that line.") from error
    return found


def cut_spikes(run_dir: Path, step: int) -> None:
    """Cuts the file to the spikes up to `step`, and those that a rewind has left out of the run.

    One that was killed before its history knew of the rewind has come to it, and told of it, again.
    """
    path = run_dir / FILE
    if not path.exists():
        return
    require_plain_file(path)
    kept: list[SpikeRecord] = []
    for spike in read_spikes(run_dir):
        again = any((spike.step, spike.documents) == (each.step, each.documents) for each in kept)
        if spike.step <= step or (spike.outcome == REWOUND and not (again and spike.documents)):
            kept.append(spike)
    write_bytes(path, b"".join(encode_spike(spike) for spike in kept))


def encode_spike(spike: SpikeRecord) -> bytes:
    """A line of the file."""
    return f"{json.dumps(spike.to_json(), allow_nan=False, ensure_ascii=False)}\n".encode(errors="backslashreplace")

"""health.jsonl: what was said of a run's health, a line for each thing, with its time: nothing of it is ever cut off.

{"time": …, "about": "ranks", "text": "step 30: rank 2 (n7, cpu) is slow: …"}
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from trainer.errors import InputError
from trainer.machine.json_file import Malformed, from_known, parse_json
from trainer.track.sinks.journal import Journal, Row, last_rows

FILE = "health.jsonl"
RANKS, RECHECK, BAD_STEPS = "ranks and data", "recheck", "bad steps"
MOST_BYTES = 1 << 20  # that are read, from the end

Say = Callable[[str], None]


@dataclass(frozen=True)
class HealthNote:
    """Something that was said: of slow ranks and data, of a step computed again, of bad steps."""

    time: float = 0.0
    about: str = ""
    text: str = ""


def keep_note(run_dir: Path, about: str, text: str) -> None:
    """A line more. StorageError where it can't be written."""
    journal = Journal(run_dir / FILE)
    try:
        if not journal.is_whole:
            journal.end_line()
        journal.write(asdict(HealthNote(round(time.time(), 3), about, text)))
    finally:
        journal.close()


def read_notes(run_dir: Path) -> list[HealthNote]:
    """The last notes of a run; none where there are none. Lines that aren't notes are left out. InputError."""
    try:
        return [from_known(HealthNote, row) for row in last_rows(run_dir / FILE, most_bytes=MOST_BYTES, parse=_parse)]
    except Malformed as error:
        raise InputError(f"{run_dir / FILE}: {error}. Remove it.") from error


def _parse(line: bytes) -> Row:
    row = parse_json(line)
    from_known(HealthNote, row)
    return dict(row)

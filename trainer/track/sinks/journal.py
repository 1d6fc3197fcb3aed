"""metrics.jsonl and samples.jsonl: the durable record of a run, a JSON object per line, flushed line by line.

A row holds step, tokens, time (unix seconds) and the metrics. Lines are strict JSON: a loss that is NaN or infinite is
written as null, and read back as NaN.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TextIO

from trainer.errors import InputError, StorageError
from trainer.machine.durable import require_plain_file, write_text
from trainer.machine.json_file import Count, Malformed, from_json, from_known, parse_json, read_regular
from trainer.track.sinks.sink import Row, Sink, Start

METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
AXES = ("step", "tokens", "time")

MOST_BYTES = 2**32  # of a journal: rows of a thousand bytes for four million logged steps


@dataclass(frozen=True)
class Axes:
    """What every row has, and what it may have that isn't a metric."""

    step: Count
    tokens: Count = 0
    time: float = 0.0
    name: str = ""
    text: str = ""


NO_METRICS = {field.name for field in fields(Axes)}


class Journal:
    """A file of JSON lines, open for appending."""

    def __init__(self, path: Path) -> None:
        self.path = path
        require_plain_file(path)
        try:
            self._file: TextIO = path.open("a", encoding="utf-8")
        except OSError as error:
            raise _unwritable(path, error) from error

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends one row and hands it to the operating system: it survives a kill of this process."""
        try:
            self._file.write(encode(row) + "\n")
            self._file.flush()
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def close(self) -> None:
        """Closes the file; all rows are already flushed."""
        self._file.close()


class JournalSink(Sink):
    """metrics.jsonl and samples.jsonl of a run directory."""

    def __init__(self, run_dir: Path) -> None:
        self._metrics = Journal(run_dir / METRICS)
        self._samples = Journal(run_dir / SAMPLES)

    def row(self, row: Row) -> None:
        """A line of metrics.jsonl."""
        self._metrics.write(row)

    def sample(self, row: Row) -> None:
        """A line of samples.jsonl."""
        self._samples.write(row)

    def close(self, *, exit_code: int, summary: Mapping[str, Any]) -> None:
        """Closes both."""
        self._metrics.close()
        self._samples.close()


def open_sink(start: Start, say: Callable[[str], None]) -> Sink:
    """The journals, cut to the step that the run goes on from."""
    cut_metrics(start.run_dir, start.start_step)
    return JournalSink(start.run_dir)


def encode(row: Mapping[str, Any]) -> str:
    """A row as one line of strict JSON; NaN and infinities, which JSON lacks, become null."""
    return json.dumps({key: _finite(value) for key, value in row.items()}, allow_nan=False, ensure_ascii=False)


def read_rows(path: Path) -> list[Row]:
    """All whole rows of a journal, as written; none if there is no file.

    A last line that a kill cut short is ignored. Any other line that can't be read is an InputError.
    """
    try:
        lines = read_regular(path, most_bytes=MOST_BYTES).split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}).") from error
    except Malformed as error:
        raise InputError(f"{path}: {error}. Remove it.") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(_parse(line))
        except ValueError as error:
            if number == len(lines):  # the file doesn't end in a newline: a torn write
                break
            raise InputError(f"{path}, line {number}: not a JSON row with a step. Remove that line.") from error
    return rows


def read_metrics(run_dir: Path) -> list[Row]:
    """The rows of metrics.jsonl, with NaN for the values that were not finite."""
    return [
        {key: math.nan if value is None else value for key, value in row.items()}
        for row in read_rows(run_dir / METRICS)
    ]


def cut_metrics(run_dir: Path, step: int) -> None:
    """Cuts metrics.jsonl and samples.jsonl to the rows up to `step`, atomically; step 0 starts both anew."""
    for path in (run_dir / METRICS, run_dir / SAMPLES):
        if path.exists():
            restored = [row for row in read_rows(path) if step > 0 and row["step"] <= step]
            write_text(path, "".join(encode(row) + "\n" for row in restored))


def metric_row(*, step: int, tokens: int, metrics: Mapping[str, float]) -> Row:
    """A row of metrics.jsonl, stamped with the time."""
    return {"step": step, "tokens": tokens, "time": round(time.time(), 3), **metrics}


def sample_row(*, step: int, name: str, text: str) -> Row:
    """A row of samples.jsonl, stamped with the time."""
    return {"step": step, "time": round(time.time(), 3), "name": name, "text": text}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parse(line: bytes) -> Row:
    row = parse_json(line)
    from_known(Axes, row)
    from_json(dict[str, float | None], {key: value for key, value in row.items() if key not in NO_METRICS})
    if ("text" in row) != ("name" in row):
        raise Malformed("a text without a name")
    return dict(row)


def _unwritable(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path}: could not be written ({error.strerror}). Make room or give access there, then start the same command "
        "again."
    )

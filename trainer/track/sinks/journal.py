"""metrics.jsonl and samples.jsonl: the durable record of a run, a JSON object per line, flushed line by line.

A row holds step, tokens, time (unix seconds) and the metrics. Lines are strict JSON: a loss that is NaN or infinite is
written as null, and read back as NaN.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from trainer.errors import InputError, StorageError
from trainer.machine.durable import require_plain_file
from trainer.machine.json_file import Count, Malformed, from_json, from_known, open_regular, parse_json, read_regular

Row = dict[str, Any]
"""A row of metrics.jsonl (step, tokens, time, and metrics by name) or of samples.jsonl (step, time, name, text)."""

METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
LAYERS = "layers.jsonl"
AXES = ("step", "tokens", "time")

LOOK_BACK = 4096  # bytes, to the beginning of a line
TAIL_BYTES = 1 << 18  # of the last rows
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
            self._file: TextIO = path.open("a+", encoding="utf-8")  # read by is_whole and cut
        except OSError as error:
            raise _unwritable(path, error) from error

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends one row and hands it to the operating system: it survives a kill of this process."""
        try:
            self._file.write(encode(row) + "\n")
            self._file.flush()
        except OSError as error:
            raise _unwritable(self.path, error) from error

    @property
    def is_whole(self) -> bool:
        """Whether it is empty, or its last line has an end."""
        descriptor = self._file.fileno()
        size = os.fstat(descriptor).st_size
        return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"

    def cut(self, step: int) -> None:
        """Cuts it to the rows up to `step`; step 0 starts it anew. InputError as end_of_step."""
        file: Any = self._file.buffer
        try:
            file.truncate(end_of_step(self.path, file, step) if step > 0 else 0)
            os.fsync(file.fileno())
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def last_rows(self) -> list[Row]:
        """The whole rows among its last bytes, as the function of that name."""
        return tail_rows(self._file.buffer)[0]

    def rows_after(self, step: int) -> list[Row]:
        """The rows of the steps after a step, NaN where a value wasn't finite. InputError as end_of_step."""
        file: Any = self._file.buffer
        file.seek(end_of_step(self.path, file, step))
        return [with_nan(row) for row in rows_of(self.path, _rest(file))]

    def end_line(self) -> None:
        """Ends a line that was cut short, so that the next row has one of its own."""
        self._file.write("\n")

    def close(self) -> None:
        """Closes the file; all rows are already flushed."""
        self._file.close()


def encode(row: Mapping[str, Any]) -> str:
    """A row as one line of strict JSON; NaN and infinities, which JSON lacks, become null."""
    return json.dumps({key: _finite(value) for key, value in row.items()}, allow_nan=False, ensure_ascii=False)


def read_rows(path: Path, *, after: int = 0) -> list[Row]:
    """The whole rows of a journal, as written, of the steps after a step; none if there is no file.

    A last line that a kill cut short is ignored. Any other line that can't be read is an InputError.
    """
    try:
        content = _content_after(path, after)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}).") from error
    except Malformed as error:
        raise InputError(f"{path}: {error}. Remove it.") from error
    return rows_of(path, content)


def rows_of(path: Path, content: bytes) -> list[Row]:
    """The whole rows of a part of a journal that begins with a line. InputError as read_rows."""
    rows = []
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(parse_row(line))
        except ValueError as error:
            if number == len(lines):  # the file doesn't end in a newline: a torn write
                break
            raise InputError(f"{path}, line {number}: not a JSON row with a step. Remove that line.") from error
    return rows


def _content_after(path: Path, step: int) -> bytes:
    if step <= 0:
        return read_regular(path, most_bytes=MOST_BYTES)
    require_plain_file(path)
    with path.open("rb") as file:
        file.seek(end_of_step(path, file, step))
        return _rest(file)


def _rest(file: BinaryIO) -> bytes:
    """From here to the end, MOST_BYTES at most: `read` makes room for as much as it is asked for."""
    return file.read(min(MOST_BYTES, max(0, os.fstat(file.fileno()).st_size - file.tell())))


def read_metrics(run_dir: Path, *, after: int = 0) -> list[Row]:
    """The rows of metrics.jsonl of the steps after a step, with NaN for the values that were not finite."""
    return [with_nan(row) for row in read_rows(run_dir / METRICS, after=after)]


def with_nan(row: Row) -> Row:
    """A row with NaN for the values that weren't finite."""
    return {key: math.nan if value is None else value for key, value in row.items()}


def last_rows(path: Path, *, most_bytes: int = TAIL_BYTES, parse: Callable[[bytes], Row] | None = None) -> list[Row]:
    """The whole rows among the last bytes of a journal, however large it is; none if there is no file.

    Lines that can't be read, as a torn last one, are left out. Malformed if it isn't a file.
    """
    return read_tail(path, most_bytes=most_bytes, parse=parse)[0]


def read_tail(
    path: Path, *, most_bytes: int = TAIL_BYTES, parse: Callable[[bytes], Row] | None = None
) -> tuple[list[Row], int]:
    """last_rows, and how many of its lines can't be read, but for a torn last one."""
    try:
        with open_regular(path) as file:
            return tail_rows(file, most_bytes=most_bytes, parse=parse)
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise Malformed(f"can't be read ({error.strerror})") from error


def tail_rows(
    file: BinaryIO, *, most_bytes: int = TAIL_BYTES, parse: Callable[[bytes], Row] | None = None
) -> tuple[list[Row], int]:
    """The whole rows among the last bytes of a journal that is open, and the number of lines that can't be read."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - most_bytes))
    *lines, last = file.read(most_bytes).split(b"\n")  # `last` has no end: nothing, or torn
    begun = size > most_bytes  # in a line, of which that is the rest
    rows, damaged = [], int(begun and not lines)
    for line in [*lines[begun:], *([last] if lines or not begun else [])]:
        try:
            if line.strip():
                rows.append((parse or parse_row)(line))
        except ValueError:
            damaged += line is not last
    return rows, damaged


def end_of_step(path: Path, file: BinaryIO, step: int) -> int:
    """Where the rows up to `step` end in a journal, bytes from its start, and whole lines with them.

    Rows are in the order of their steps, so it is found by halving: millions of rows cost a few reads. InputError if a
    line that is looked at can't be read, but for a torn last one.
    """
    low, high = 0, file.seek(0, os.SEEK_END)
    while low < high:
        begin = _line_start(file, low, (low + high) // 2)
        file.seek(begin)
        line = file.readline()
        if line.endswith(b"\n") and (not line.strip() or _step_of(path, line, begin) <= step):
            low = begin + len(line)
        else:
            high = begin
    return low


def _line_start(file: BinaryIO, low: int, place: int) -> int:
    """Where the line begins that holds the byte at `place`; at `low` one begins."""
    while place > low:
        begin = max(low, place - LOOK_BACK)
        file.seek(begin)
        before = file.read(place - begin).rfind(b"\n")
        if before >= 0:
            return begin + before + 1
        place = begin
    return low


def _step_of(path: Path, line: bytes, place: int) -> int:
    try:
        return from_known(Axes, parse_json(line)).step  # a line of layers.jsonl has lists beside it
    except ValueError as error:
        raise InputError(f"{path}, byte {place:,}: not a JSON row with a step. Remove that line.") from error


def metric_row(*, step: int, tokens: int, metrics: Mapping[str, float]) -> Row:
    """A row of metrics.jsonl, stamped with the time."""
    return {"step": step, "tokens": tokens, "time": round(time.time(), 3), **metrics}


def sample_row(*, step: int, name: str, text: str) -> Row:
    """A row of samples.jsonl, stamped with the time."""
    return {"step": step, "time": round(time.time(), 3), "name": name, "text": text}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parse_row(line: bytes) -> Row:
    """A line of a journal. ValueError if it isn't a row."""
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

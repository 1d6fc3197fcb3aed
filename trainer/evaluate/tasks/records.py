"""The records that a task file's `data` names: JSON lines, bounded and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.errors import InputError
from trainer.machine.json_file import Malformed, open_regular, parse_json

LONGEST_LINE = 2**24  # bytes
MOST_RECORDS = 2**22


def read_records(path: Path, where: str) -> list[dict[str, Any]]:
    """Every record of a file of JSON lines. InputError names it, and `where` it was asked for."""
    if not path.is_file():
        raise InputError(f"{where}: {path}: there is no such file; give one with a JSON object in each line.")
    found: list[dict[str, Any]] = []
    number = 0
    try:
        with open_regular(path) as lines:
            while line := lines.readline(LONGEST_LINE):
                number += 1
                if number > MOST_RECORDS or (len(line) == LONGEST_LINE and not line.endswith(b"\n")):
                    raise InputError(f"{path}, line {number}: more than a task's file may hold.")
                if not line.strip():
                    continue
                record = parse_json(line)
                if not isinstance(record, dict):
                    raise InputError(f"{path}, line {number}: no JSON object.")
                found.append(record)
    except Malformed as error:
        raise InputError(f"{path}, line {number}: {error}.") from error
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}).") from error
    if not found:
        raise InputError(f"{path}: no record in it.")
    return found

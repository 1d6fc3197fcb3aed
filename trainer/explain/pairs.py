"""A file of pairs, JSON lines: {"query": text, "positive": text}. A bad record is named."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import InputError
from trainer.machine.json_file import open_regular, parse_json

FIELDS = ("query", "positive")
MOST_BYTES = 2**26  # of a line


@dataclass(frozen=True)
class QueryPairs:
    """Queries and, for each, the text that should be found; the sha256 of their file."""

    queries: list[str]
    positives: list[str]
    sha256: str


def read_pairs(path: Path) -> QueryPairs:
    """All pairs of a file. InputError for one that can't be read, an empty one, and a bad record, which it names."""
    queries, positives, digest = [], [], hashlib.sha256()
    try:
        with open_regular(path) as file:
            number = 0
            while line := file.readline(MOST_BYTES):
                digest.update(line)
                if line.strip():
                    number += 1
                    query, positive = _pair(line, f"pairs={path}, record {number}")
                    queries.append(query)
                    positives.append(positive)
    except OSError as error:
        raise InputError(f"pairs={path}: can't be read ({error.strerror}).") from error
    except InputError as error:
        raise InputError(str(error) if str(error).startswith("pairs=") else f"pairs={path}: {error}.") from error
    if not queries:
        raise InputError(f'pairs={path}: no pairs there; write a line {{"query": …, "positive": …}} for each.')
    return QueryPairs(queries, positives, digest.hexdigest())


def _pair(line: bytes, place: str) -> tuple[str, str]:
    try:
        record = parse_json(line)
    except ValueError as error:
        raise InputError(f"{place}: {error}; mend it.") from error
    if not isinstance(record, dict):
        raise InputError(f"{place}: is no JSON object; mend it.")
    for field in FIELDS:
        if field not in record:
            raise InputError(f'{place}: has no field "{field}"; add it.')
        if not isinstance(record[field], str) or not record[field].strip():
            raise InputError(f'{place}: "{field}" is no text, or an empty one; mend it.')
        if any("\ud800" <= letter <= "\udfff" for letter in record[field]):
            raise InputError(f'{place}: "{field}" holds half of a surrogate pair, which is no text; mend it.')
    return record["query"], record["positive"]

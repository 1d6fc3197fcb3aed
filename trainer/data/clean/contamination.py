"""Runs of words that evaluation sets have, too: a document with these would teach the answers.

Words are without case and punctuation (plain_words.py); texts of an evaluation set with fewer words than a run count
for nothing, since such runs are common phrases.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import zstandard

from trainer.config.clean import Contamination
from trainer.data.clean.document import CleanedDocument, Limits, Verdict
from trainer.data.clean.hashes import slot_of, table_size
from trainer.data.clean.plain_words import plain_runs, plain_words
from trainer.data.clean.repeated_runs import runs_of
from trainer.data.compiled import compiled
from trainer.errors import InputError

NAME = "contamination"


class ContaminationStage:
    """Rejects by the share of a document's runs that an evaluation set has."""

    @staticmethod
    def limits_of(settings: Contamination) -> Limits:
        """The rule."""
        return Limits(NAME, {"share": (None, settings.highest_share)})

    def __init__(self, settings: Contamination) -> None:
        self._limits, self._words = self.limits_of(settings), settings.words
        files = tuple(str(Path(file).expanduser()) for file in settings.files)
        names = [Path(file).name for file in files]
        self._names = [name if names.count(name) == 1 else file for name, file in zip(names, files, strict=True)]
        self._keys, self._sets = run_table(files, settings.words)

    def __call__(self, document: CleanedDocument) -> Verdict | None:
        """Looks every run up; the first evaluation set that is met is named."""
        if len(self._keys) == 0:
            return None
        words = plain_words(document.text)
        share, first = 0.0, -1
        if len(words) >= self._words:
            runs = runs_of(words, self._words)
            met, first = _look_up(runs, self._keys, self._sets)
            share = met / len(runs)
        verdict = self._limits.verdict(document, {"share": share})
        return None if verdict is None else replace(verdict, detail=self._names[first])


@lru_cache(maxsize=2)
def run_table(files: tuple[str, ...], size: int) -> tuple[np.ndarray, np.ndarray]:
    """All runs of the texts in these files: a table of keys, and the number of the first file that has each."""
    found: list[np.ndarray] = []
    owners: list[np.ndarray] = []
    for number, file in enumerate(files):
        of_texts = [plain_runs(text, size) for text in texts_of_file(Path(file)) if len(plain_words(text)) >= size]
        if not of_texts:
            raise InputError(f"data.clean.contamination.files: {file} has no text of {size} words or more.")
        of_file = np.unique(np.concatenate(of_texts))
        found.append(of_file)
        owners.append(np.full(len(of_file), number, np.int32))
    if not found:
        return np.empty(0, np.uint64), np.empty(0, np.int32)
    runs = np.concatenate(found)
    keys = np.zeros(table_size(len(runs)), np.uint64)
    sets = np.zeros(len(keys), np.int32)
    _fill(keys, sets, runs, np.concatenate(owners))
    return keys, sets


def texts_of_file(path: Path) -> Iterator[str]:
    """The texts of an evaluation set: every string in JSON lines, or a text file as one. InputError if it can't be."""
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    try:
        with _open(path) as file:
            if not name.endswith((".jsonl", ".json")):
                yield file.read()
                return
            for line in file:
                if line.strip():
                    yield from _strings(json.loads(line))
    except (OSError, ValueError, zstandard.ZstdError) as error:
        raise InputError(f"data.clean.contamination.files: {path} can't be read ({error}).") from error


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    if path.suffix == ".zst":
        return io.TextIOWrapper(zstandard.open(path, "rb"), encoding="utf-8")
    return open(path, encoding="utf-8")


def _strings(value: Any) -> Iterator[str]:
    """The strings in a value of JSON, at any depth."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict | list):
            waiting.extend(each.values() if isinstance(each, dict) else each)


@compiled
def _fill(keys: np.ndarray, sets: np.ndarray, runs: np.ndarray, owners: np.ndarray) -> None:
    for place in range(len(runs)):
        slot = slot_of(keys, runs[place], len(keys))
        if keys[slot] == 0:
            keys[slot] = runs[place]
            sets[slot] = owners[place]


@compiled
def _look_up(runs: np.ndarray, keys: np.ndarray, sets: np.ndarray) -> tuple[int, int]:
    """How many runs are in the table, and the set of the first."""
    met, first = 0, -1
    for key in runs:
        slot = slot_of(keys, key, len(keys))
        if keys[slot] == key:
            met += 1
            if first < 0:
                first = sets[slot]
    return met, first

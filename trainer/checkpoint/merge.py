"""Merges the indexes of all ranks into that of the checkpoint; pieces that are alike become runs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice

import numpy as np

from trainer.checkpoint.index import FILE, LONGS, NAMES, ORDER, WORDS, Columns, IndexNames, encode
from trainer.errors import StorageError
from trainer.machine.json_file import from_json
from trainer.model.partition import Slice

AT_ONCE = 64  # ranks whose rows are sorted first: what remains of them is small


def merge_indexes(indexes: Iterable[bytes], files: list[str]) -> bytes:
    """The checkpoint's index of every rank's (`encode`), in order; `files`: in which file each rank's part is."""
    numbering = _Numbering()
    merged: list[Columns] = []
    remaining = iter(indexes)
    while batch := [numbering.read(content) for content in islice(remaining, AT_ONCE)]:
        merged.append(compress(_joined(batch)))
    rows = compress(_joined(merged))
    distinct = {name: place for place, name in enumerate(dict.fromkeys(files))}
    names = IndexNames(numbering.shapes, tuple(numbering.kinds), tuple(numbering.slices), tuple(distinct))
    return encode(names, {**rows, FILE: np.array([distinct[name] for name in files], dtype=np.int32)})


class _Numbering:
    """Numbers of parameters, kinds and slices that hold for all ranks, by first appearance."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.kinds: dict[str, int] = {}
        self.slices: dict[Slice | None, int] = {}
        self._parameters: dict[str, int] = {}
        self._known: dict[bytes, Columns] = {}

    def read(self, content: bytes) -> Columns:
        """A rank's rows, numbered anew."""
        from safetensors.numpy import load

        columns = load(content)
        text = columns.pop(NAMES).tobytes()
        if text not in self._known:
            self._known[text] = self._places(from_json(IndexNames, json.loads(text)))
        places = self._known[text]
        return columns | {name: places[name][columns[name]] for name in places}

    def _places(self, names: IndexNames) -> Columns:
        """For each number of one rank, that of all."""
        for name, shape in names.parameters.items():
            if self.shapes.setdefault(name, shape) != shape:
                raise StorageError(f"{name} has two shapes among the ranks")
        found = {
            "parameter": [self._parameters.setdefault(name, len(self._parameters)) for name in names.parameters],
            "kind": [self.kinds.setdefault(name, len(self.kinds)) for name in names.kinds],
            "slice": [self.slices.setdefault(cut, len(self.slices)) for cut in names.slices],
        }
        return {name: np.array(numbers, dtype=np.int32) for name, numbers in found.items()}


def _joined(batch: list[Columns]) -> Columns:
    return {name: np.concatenate([columns[name] for columns in batch]) for name in WORDS + LONGS}


def compress(rows: Columns) -> Columns:
    """The same pieces in order, in as few runs as neighbours make."""
    order = np.lexsort([rows[name] for name in reversed(ORDER)])
    rows = {name: column[order] for name, column in rows.items()}
    while True:
        merged = _merge_neighbours(rows)
        if len(merged["start"]) == len(rows["start"]):
            return merged
        rows = merged


def _merge_neighbours(rows: Columns) -> Columns:
    """Joins rows that go on where the former ends, the same number of parts further each."""
    count, step, part = rows["count"].astype(np.int64), rows["step"], rows["part"]
    if len(count) < 2:
        return rows
    alike = [np.diff(rows[name]) == 0 for name in ("parameter", "kind", "slice", "size", "offset")]
    goes_on = rows["start"][1:] == (rows["start"] + count * rows["size"])[:-1]
    jump = part[1:] - (part + (count - 1) * step)[:-1]
    in_step = ((count == 1) | (step == np.append(jump, 0)))[:-1] & ((count == 1) | (step == np.append(0, jump)))[1:]
    fits = np.logical_and.reduce([*alike, goes_on, in_step, jump != 0])
    fits[1:] &= ~fits[:-1] | (jump[1:] == jump[:-1])  # of three in a row, all or two by two
    firsts = np.append(0, np.flatnonzero(~fits) + 1)
    merged = {name: column[firsts] for name, column in rows.items()}
    merged["count"] = np.add.reduceat(count, firsts).astype(np.int32)
    merged["step"] = np.where(
        (merged["count"] > 1) & (count[firsts] == 1), np.append(jump, 0)[firsts], step[firsts]
    ).astype(np.int32)
    return merged

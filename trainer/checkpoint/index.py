"""The index of a checkpoint: which part of which file holds any range of any parameter, found by bisection.

A row is a run of pieces that are alike: `count` ranges of `size` elements on end from `start` on, the first in part
`part`, each next one `step` parts further, all at the same `offset` in their parts. ZeRO cuts a parameter evenly, so a
run stands for what thousands of ranks hold. Part n is what rank n wrote. It is stored as a safetensors file of columns,
which is mapped (docs/CHECKPOINTS.md).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from trainer.checkpoint.complete import StoredFile
from trainer.checkpoint.part_sizes import sizes_of_parts
from trainer.errors import InputError
from trainer.machine.json_file import Count, Malformed, Matching, from_json, parse_json, require_regular, shown
from trainer.model.partition import Slice
from trainer.model.region import Region, find_gap

INDEX = "index.safetensors"
NAMES = "names"  # the column of bytes with the JSON that numbers refer to
FILE = "file"  # the column with a row for each part
WORDS = ("parameter", "kind", "slice", "part", "step", "count")  # columns of int32
LONGS = ("start", "size", "offset")  # of int64
ORDER = ("parameter", "kind", "slice", "start")  # what rows are sorted by

FP32_BYTES = 4
MOST_DIMENSIONS = 8
MOST_NAMES_BYTES = 2**30
MOST_ELEMENTS = 2**53
MOST_PARTS = 2**18  # ranks of a run
VISIBLE = "[!-~]+"  # ASCII

Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class IndexNames:
    """What the numbers in the columns refer to, by place; `parameters` by name, with the shape of the whole."""

    parameters: dict[str, tuple[Count, ...]]
    kinds: tuple[Annotated[str, Matching(VISIBLE)], ...]
    slices: tuple[Slice | None, ...]
    files: tuple[str, ...]


@dataclass(frozen=True)
class Pieces:
    """`count` pieces of `size` elements on end in the flattened `slice`, from `start` on; see the module."""

    slice: Slice | None
    start: int
    size: int
    count: int
    part: int
    step: int
    offset: int


class Index:
    """Every piece of a checkpoint. InputError or Malformed if it contradicts itself, or `files`: it may be an enemy's.

    After that every element of every parameter is known to be in one place, within its file's size, where no other is.
    """

    def __init__(
        self, names: IndexNames, columns: Columns, parts: list[tuple[str, str]], files: Mapping[str, StoredFile]
    ) -> None:
        """`parts`: file and tensor of each."""
        self.shapes: dict[str, tuple[int, ...]] = names.parameters
        self.parts = parts
        self._columns = columns
        self._check_names(names, files)
        self._check_rows(names, max((files[file].bytes for file in names.files), default=0))
        self._groups = self._find_groups(names)
        self.part_sizes = sizes_of_parts(columns, len(parts))
        """By part, how many elements its tensor must have at least."""

    def find(self, parameter: str, kind: str, region: Region) -> Iterator[Pieces]:
        """Runs of the pieces that have elements of `region`, cut to these; none if the parameter isn't held."""
        for cut, first, last in self._groups.get((parameter, kind), ()):
            if cut and region.slice and cut.dim != region.slice.dim:
                raise InputError(f"{parameter} ({kind}) is cut along dimension {cut.dim}, not {region.slice.dim}")
            start, stop = region.span_in(cut)
            if start >= stop:
                continue
            starts = self._columns["start"][first:last]
            low, high = int(starts.searchsorted(start, "right")) - 1, int(starts.searchsorted(stop, "left"))
            for row in range(first + low, first + high):
                yield self._within(row, cut, start, stop)

    def _within(self, row: int, cut: Slice | None, start: int, stop: int) -> Pieces:
        """The pieces of a row that have elements of [start, stop)."""
        begin, size, count, part, step, offset = (
            int(self._columns[name][row]) for name in ("start", "size", "count", "part", "step", "offset")
        )
        low, high = max(0, (start - begin) // size), min(count, -((begin - stop) // size))
        return Pieces(cut, begin + low * size, size, high - low, part + low * step, step, offset)

    def holds(self, parameter: str, kind: str) -> bool:
        """Whether there is anything of this kind of the parameter."""
        return (parameter, kind) in self._groups

    @property
    def kinds(self) -> list[tuple[str, str]]:
        """What is held, as (parameter, kind)."""
        return list(self._groups)

    # ------------------------------------------------------------------------------------------------------ checks

    def _check_names(self, names: IndexNames, files: Mapping[str, StoredFile]) -> None:
        for file in names.files:
            if file not in files:
                raise Malformed(f"{shown(file)} isn't named by COMPLETE")
        held = sum(file.bytes for file in files.values())
        for name, shape in self.shapes.items():
            if not re.fullmatch(VISIBLE, name):
                raise Malformed(f"{shown(name)} is no name of a parameter")
            if len(shape) > MOST_DIMENSIONS:
                raise Malformed(f"{name} has {len(shape)} dimensions")
            if math.prod(shape) * FP32_BYTES > held:
                raise Malformed(f"{name} is larger than all files together")
        if not names.parameters:
            raise Malformed("it holds no parameter")

    def _check_rows(self, names: IndexNames, most_bytes: int) -> None:
        column = self._columns
        limits = {"parameter": len(names.parameters), "kind": len(names.kinds), "slice": len(names.slices)}
        if math.prod(limits.values()) > MOST_ELEMENTS:
            raise Malformed("it has more names than a checkpoint can")
        for name, limit in limits.items():
            _require(column, name, (column[name] >= 0) & (column[name] < limit))
        for name, low in (("count", 1), ("start", 0), ("size", 1), ("offset", 0)):
            _require(column, name, (column[name] >= low) & (column[name] <= MOST_ELEMENTS))
        size, count, part = column["size"], column["count"].astype(np.int64), column["part"]
        _require(column, "count", count <= MOST_ELEMENTS // size)
        _require(column, "offset", column["offset"] + size <= most_bytes // FP32_BYTES)
        _require(column, "part", (part >= 0) & (part < len(self.parts)))
        last = part + (count - 1) * column["step"]
        _require(column, "step", (last >= 0) & (last < len(self.parts)) & ((column["step"] != 0) | (count == 1)))

    def _find_groups(self, names: IndexNames) -> dict[tuple[str, str], list[tuple[Slice | None, int, int]]]:
        """Rows [first, last) of each slice, by parameter and kind. Malformed unless they hold each element once."""
        column, kinds, slices = self._columns, len(names.kinds), len(names.slices)
        if not len(column["start"]):
            self._check_coverage({}, set())
            return {}
        key = (column["parameter"].astype(np.int64) * kinds + column["kind"]) * slices + column["slice"]
        edges = np.flatnonzero(np.diff(key)) + 1
        firsts, lasts = np.append(0, edges), np.append(edges, len(key))
        if (np.diff(key) < 0).any():
            raise Malformed("its rows aren't sorted by parameter, kind and slice")
        stops = column["start"] + column["count"].astype(np.int64) * column["size"]
        broken = np.append(0, stops[:-1]) != column["start"]  # rows that don't begin where the former ends
        broken[firsts] = column["start"][firsts] != 0
        parameters, count_of = list(names.parameters), _counter()
        groups: dict[tuple[str, str], list[tuple[Slice | None, int, int]]] = {}
        holed = set(np.searchsorted(firsts, np.flatnonzero(broken), "right").tolist())
        for number, (first, last, end) in enumerate(
            zip(firsts.tolist(), lasts.tolist(), stops[lasts - 1].tolist(), strict=True), start=1
        ):
            rest, cut = divmod(int(key[first]), slices)
            parameter, kind = parameters[rest // kinds], names.kinds[rest % kinds]
            groups.setdefault((parameter, kind), []).append((names.slices[cut], first, last))
            if end != count_of(names.parameters[parameter], names.slices[cut]):
                holed.add(number)
        self._check_coverage(groups, {int(firsts[number - 1]) for number in holed})
        return groups

    def _check_coverage(
        self, groups: dict[tuple[str, str], list[tuple[Slice | None, int, int]]], holed: set[int]
    ) -> None:
        """`holed`: first rows of groups that leave elements of their slices out, or hold some twice."""
        for (parameter, kind), found in groups.items():
            shape = self.shapes[parameter]
            if any(first in holed for _, first, _ in found) or not _tile(shape, [cut for cut, _, _ in found]):
                raise Malformed(f"{parameter} ({kind}): {self._gap(shape, found)}")
        held = {parameter for parameter, _ in groups}
        for parameter, shape in self.shapes.items():
            if parameter not in held and math.prod(shape) > 0:
                raise Malformed(f"{parameter}: all of it is missing")

    def _gap(self, shape: tuple[int, ...], found: list[tuple[Slice | None, int, int]]) -> str:
        """What is missing or there twice, in words."""
        column = self._columns
        regions = []
        for cut, first, last in found:
            for row in range(first, last):
                start = int(column["start"][row])
                regions.append(Region(shape, cut, start, start + int(column["count"][row]) * int(column["size"][row])))
        return find_gap(shape, regions) or "its slices don't make it whole"


def _require(columns: Columns, name: str, fits: npt.NDArray[np.bool_]) -> None:
    """Malformed with the first row of a column that doesn't fit."""
    if not fits.all():
        row = int(fits.argmin())
        raise Malformed(f"{name}[{row}]: {int(columns[name][row])} can't be")


def _counter() -> Callable[[tuple[int, ...], Slice | None], int]:
    """What counts the elements of a slice. Malformed if that isn't inside its parameter."""

    @cache
    def count(shape: tuple[int, ...], cut: Slice | None) -> int:
        check_slice(shape, cut)
        return Region.of_slice(shape, cut).count

    return count


def check_slice(shape: tuple[int, ...], cut: Slice | None) -> None:
    """Malformed if a slice isn't inside its parameter."""
    if cut is not None and not (0 <= cut.dim < len(shape) and 0 <= cut.start < cut.stop <= shape[cut.dim]):
        raise Malformed(f"{cut} isn't inside shape {list(shape)[:MOST_DIMENSIONS]}")


def _tile(shape: tuple[int, ...], cuts: list[Slice | None]) -> bool:
    """Whether slices make a parameter whole, none overlapping another."""
    slices = sorted((cut for cut in cuts if cut is not None), key=lambda cut: cut.start)
    if not slices or len(slices) < len(cuts):
        return cuts == [None]
    at = 0
    for cut in slices:
        if cut.dim != slices[0].dim or cut.start != at:
            return False
        at = cut.stop
    return at == shape[slices[0].dim]


# ------------------------------------------------------------------------------------------------------------ files


def encode(names: IndexNames, columns: Columns) -> bytes:
    """A safetensors file of the columns."""
    from safetensors.numpy import save

    slices = [cut and vars(cut) for cut in names.slices]
    text = json.dumps(vars(names) | {"slices": slices}, separators=(",", ":")).encode()
    return bytes(save({**columns, NAMES: np.frombuffer(text, dtype=np.uint8)}))


def part_name(number: int) -> str:
    """The tensor that holds all that a rank wrote, end to end."""
    return f"rank-{number:05d}"


def read_index(path: Path, files: Mapping[str, StoredFile]) -> Index:
    """The index in a file, mapped and checked; `files` are those that COMPLETE names. InputError or Malformed."""
    columns = _map_columns(path)
    text = columns.pop(NAMES)
    if text.nbytes > MOST_NAMES_BYTES:
        raise Malformed(f"{NAMES}: larger than {MOST_NAMES_BYTES:,} bytes")
    names = from_json(IndexNames, parse_json(text.tobytes()))
    if len(columns[FILE]) > MOST_PARTS:
        raise Malformed(f"{FILE}: {len(columns[FILE]):,} parts are more than {MOST_PARTS:,}")
    _require(columns, FILE, (columns[FILE] >= 0) & (columns[FILE] < len(names.files)))
    parts = [(names.files[file], part_name(number)) for number, file in enumerate(columns.pop(FILE).tolist())]
    return Index(names, columns, parts, files)


def _map_columns(path: Path) -> Columns:
    """The columns of an index. Malformed if one is missing, or of other numbers or another length."""
    from safetensors import SafetensorError, safe_open

    found: Columns = {}
    require_regular(path)  # safetensors would wait for a pipe
    try:
        opened = safe_open(path, framework="pt")
        for name in (*WORDS, *LONGS, FILE, NAMES):
            found[name] = opened.get_tensor(name).numpy()
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, TypeError) as error:  # numpy has no bf16
        raise Malformed(str(error).splitlines()[0]) from None
    wanted = dict.fromkeys((*WORDS, FILE), "i4") | dict.fromkeys(LONGS, "i8") | {NAMES: "u1"}
    rows = found[WORDS[0]].shape
    for name, array in found.items():
        if array.dtype != np.dtype(wanted[name]) or array.ndim != 1 or (name in WORDS + LONGS and array.shape != rows):
            raise Malformed(f"{name} is {array.dtype} {list(array.shape)[:MOST_DIMENSIONS]}")
    return found

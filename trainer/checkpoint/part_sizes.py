"""Whether the pieces of an index lie end to end in their parts, none over another: without a list of all pieces.

Each piece goes from its offset to its end. They fill a part from 0 to some place, without a gap or an overlap, just if
the ends of pieces are where other pieces begin, each as often, but for 0 and the last end: whoever goes from piece to
piece goes forward, and can only come from 0 to the end, once. Two such collections of numbers are compared by the sum
of a random function of each, which a run of pieces that are alike adds to all its parts at once.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.machine.json_file import Malformed

Array = npt.NDArray[Any]


def sizes_of_parts(columns: Mapping[str, Array], parts: int) -> npt.NDArray[np.int64]:
    """The elements that each of `parts` must have. Malformed unless pieces lie in it end to end.

    Parts, offsets and sizes are within their limits (index.py has checked that).
    """
    begin, end = columns["offset"], columns["offset"] + columns["size"]
    at_random = _random_function()
    sizes = _sums(columns, columns["size"].view(np.uint64), parts).view(np.int64)
    differences = _sums(columns, at_random(end) - at_random(begin), parts)
    broken = np.flatnonzero(differences != at_random(sizes) - at_random(np.zeros(1, np.int64)))
    if len(broken):
        raise Malformed(_contradiction(columns, int(broken[0])))
    return sizes


def _random_function() -> Any:
    """A function of int64 to uint64 that nobody who writes an index can know."""
    key = np.uint64(secrets.randbits(64))

    def mix(values: Array) -> Array:
        mixed = values.astype(np.uint64) ^ key  # a copy; then the finaliser of splitmix64 (Steele et al. 2014)
        mixed += np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed ^= mixed >> np.uint64(shift)
            mixed *= np.uint64(factor)
        mixed ^= mixed >> np.uint64(31)
        return mixed

    return mix


def _sums(columns: Mapping[str, Array], values: Array, parts: int) -> Array:
    """By part, the sum (modulo 2^64) of the values of all rows that have a piece in it."""
    count, step = columns["count"].astype(np.int64), columns["step"].astype(np.int64)
    first = columns["part"] + np.minimum(0, (count - 1) * step)  # the lowest part of each row
    step = np.abs(step)
    sums = np.zeros(parts, dtype=np.uint64)
    single = count == 1
    np.add.at(sums, first[single], values[single])
    runs = np.flatnonzero(~single)
    runs = runs[np.argsort(step[runs], kind="stable")]
    for rows in np.split(runs, np.flatnonzero(np.diff(step[runs])) + 1):
        if len(rows):
            add = _add_each if count[rows].sum() < parts else _add_runs
            add(sums, first[rows], count[rows], values[rows], int(step[rows[0]]))
    return sums


def _add_each(sums: Array, first: Array, count: Array, values: Array, step: int) -> None:
    """Adds the values of runs, which go on by the same step, to each of their parts."""
    number = np.arange(count.sum()) - (np.cumsum(count) - count).repeat(count)  # of a piece in its run
    np.add.at(sums, first.repeat(count) + number * step, values.repeat(count))


def _add_runs(sums: Array, first: Array, count: Array, values: Array, step: int) -> None:
    """The same without a number for each piece: what begins at a part and hasn't ended yet, `step` by `step`."""
    begins = np.zeros(-(-len(sums) // step) * step + step, dtype=np.uint64)
    np.add.at(begins, first, values)
    np.subtract.at(begins, first + count * step, values)
    sums += begins.reshape(-1, step).cumsum(axis=0, dtype=np.uint64).reshape(-1)[: len(sums)]


def _contradiction(columns: Mapping[str, Array], part: int) -> str:
    """Where the pieces of a part leave a gap or overlap, in words."""
    count, step, low = columns["count"].astype(np.int64), columns["step"].astype(np.int64), columns["part"]
    ahead = (part - low) * np.sign(step)
    stride = np.maximum(1, np.abs(step))
    here = np.where(step == 0, low == part, (ahead >= 0) & (ahead % stride == 0) & (ahead // stride < count))
    begins = columns["offset"][here]
    order = np.argsort(begins, kind="stable")
    begins, ends = begins[order], (begins + columns["size"][here])[order]
    last = np.append(0, np.maximum.accumulate(ends)[:-1])
    at = int((begins != last).argmax())
    low_element, high_element = sorted((int(begins[at]), int(last[at])))
    what = "belong to no piece" if begins[at] > last[at] else "belong to two pieces"
    return f"part {part}: elements {low_element:,} to {high_element:,} {what}"

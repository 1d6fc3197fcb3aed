"""The order of data, asked the other way round: at which positions of a run the rows come that hold some tokens.

Of each epoch the window is laid out that the shard is in, so that what it costs doesn't grow with the data.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from trainer.data.tokens.dataset import Dataset
from trainer.data.tokens.order import Segment, Shuffle


def rows_with(dataset: Dataset, shard: int, start: int, stop: int) -> dict[int, np.ndarray]:
    """The rows whose inputs have any of the tokens [start, stop) of a shard, by the shard that they begin in."""
    if dataset.packing is not None:
        table = dataset.row_tables[shard]
        touching = (table.starts < stop) & (table.starts + table.places > start)
        rows = np.searchsorted(table.firsts, np.flatnonzero(touching), side="right") - 1
        return {shard: np.unique(rows)} if len(rows) else {}
    found = {}
    length, before = dataset.sequence_length, 0
    for number in range(shard, -1, -1):  # of indexed tars, a row may begin in an earlier one
        count = dataset.rows.rows[number]
        if count:
            first = int(dataset.starts_of(np.array([number]), np.array([0]))[0])
            low = max(0, (start + before - first) // length)
            high = min(count, (stop - 1 + before - first) // length + 1)
            if low < high:
                found[number] = np.arange(low, high)
            if dataset.manifest.indexed is None or start + before >= first:
                break
        before += dataset.manifest.shards[number - 1].tokens
    return found


def positions_of_rows(
    segments: list[Segment], shuffle: Shuffle, fingerprint: str, rows: dict[int, np.ndarray], *, stop: int
) -> np.ndarray:
    """The positions before `stop`, in order, at which rows, by their shards, of the dataset with a fingerprint come."""
    ends = [*(after.first for _, after in pairwise(segments)), stop]
    found: list[int] = []
    for segment, end in zip(segments, ends, strict=True):
        if segment.first >= min(end, stop):
            continue
        counters = segment.counters_at(min(end, stop))
        for name, share in segment.shares.items():
            if share.fingerprint == fingerprint:
                taken = _counters(shuffle, rows, share.start, counters[name])
                found += [segment.position_after(name, counter + 1) - 1 for counter in taken]
    return np.array(sorted(found), np.int64)


def _counters(shuffle: Shuffle, rows: dict[int, np.ndarray], start: int, stop: int) -> list[int]:
    """The counters in [start, stop) at which rows are taken."""
    found: list[int] = []
    for epoch in range(start // shuffle.rows, -(-stop // shuffle.rows)):
        for shard, wanted in rows.items():
            first, last = shuffle.window_of(epoch, shard)
            counters = np.arange(max(start, epoch * shuffle.rows + first), min(stop, epoch * shuffle.rows + last))
            _, shards, numbers = shuffle.locate(counters)
            found += counters[(shards == shard) & np.isin(numbers, wanted)].tolist()
    return found

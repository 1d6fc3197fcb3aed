"""Which sequence stands at position n of a run: a pure function of (seed, datasets, sequence length, weights, n).

Positions go through two maps. The mixture takes a position to (dataset, counter); the shuffle takes a dataset's
counter to (epoch, shard, row). Both are seekable to any n, so the loader's whole state is n and the list of segments.
World size, ZeRO stage and loader threads appear nowhere in this file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated, Any

import numpy as np
import xxhash

from trainer.errors import ConfigError, InputError
from trainer.machine.json_file import Count, Malformed, Within

PERIOD = 4096  # positions in one period of a mixture; weights are shares of it
ROUNDS = 6  # of the Feistel network


def rows_in(tokens: int, sequence_length: int) -> int:
    """Rows that a shard of `tokens` holds. Row i is tokens [iL, iL + L], so that inputs and targets overlap by one."""
    return max(0, tokens - 1) // sequence_length


def derive_key(*parts: object) -> int:
    """A 64-bit key from its parts, the same in every process and version of Python."""
    return xxhash.xxh3_64_intdigest("/".join(map(str, parts)).encode())


def _mix(values: np.ndarray, key: int) -> np.ndarray:
    """splitmix64's finaliser (Steele et al., 2014) over uint64 `values`, keyed."""
    with np.errstate(over="ignore"):
        z = values + np.uint64(key)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def permute(indices: np.ndarray, size: int, key: int) -> np.ndarray:
    """A keyed pseudo-random permutation of range(size), applied to `indices` (int64, any shape) without storing it.

    A balanced Feistel network over the next power of four; what falls outside `size` walks on along its cycle until
    it is inside (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002).
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << half) - np.uint64(1)
    keys = [derive_key(key, turn) for turn in range(ROUNDS)]
    values = indices.astype(np.uint64)
    outside = np.ones(values.shape, dtype=bool)
    while outside.any():
        left, right = values[outside] >> half, values[outside] & low
        for round_key in keys:
            left, right = right, left ^ (_mix(right, round_key) & low)
        values[outside] = (left << half) | right
        outside = values >= np.uint64(size)
    return values.astype(np.int64)


@dataclass(frozen=True)
class Rows:
    """What the order must know of a dataset: `rows` in each shard, and the fingerprint that names its content."""

    name: str
    fingerprint: str
    rows: tuple[int, ...]

    @cached_property
    def total(self) -> int:
        """Rows in one epoch."""
        return sum(self.rows)


class Shuffle:
    """Counter of a dataset → (epoch, shard, row).

    In each epoch shards are permuted; `window` consecutive ones form a window, within which rows are permuted. So
    reading stays local to a window, which suits remote shards.
    """

    def __init__(self, rows: Rows, *, seed: int, window: int) -> None:
        if rows.total == 0:
            raise InputError(
                f"{rows.name}: no shard holds one whole row; give it more text or a smaller data.sequence_length."
            )
        self._rows = rows
        self._window = window
        self._key = derive_key("shuffle", seed, rows.fingerprint)
        self._epoch = lru_cache(maxsize=4)(self._lay_out_epoch)

    def _lay_out_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Shards in this epoch's order, and where each one's rows begin in it (one more entry than shards)."""
        count = len(self._rows.rows)
        shards = permute(np.arange(count), count, derive_key(self._key, epoch, "shards"))
        starts = np.concatenate([[0], np.cumsum(np.asarray(self._rows.rows, dtype=np.int64)[shards])])
        return shards, starts

    def locate(self, counters: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(epoch, shard, row) of each of `counters`; int64 arrays of the same length."""
        epochs, within = np.divmod(np.asarray(counters, dtype=np.int64), self._rows.total)
        shard, row = np.empty_like(within), np.empty_like(within)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            shard[chosen], row[chosen] = self._locate_in_epoch(int(epoch), within[chosen])
        return epochs, shard, row

    @property
    def rows(self) -> int:
        """Rows in one epoch."""
        return self._rows.total

    def window_of(self, epoch: int, shard: int) -> tuple[int, int]:
        """[first, last): the counters within an epoch at which the rows of a shard are taken, among others'."""
        shards, starts = self._epoch(epoch)
        edges = starts[:: self._window].tolist()
        window = int(np.flatnonzero(shards == shard)[0]) // self._window
        return edges[window], edges[window + 1] if window + 1 < len(edges) else int(starts[-1])

    def _locate_in_epoch(self, epoch: int, within: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shards, starts = self._epoch(epoch)
        edges = starts[:: self._window]
        windows = np.searchsorted(edges, within, side="right") - 1
        shuffled = np.empty_like(within)
        for window in np.unique(windows):
            chosen = windows == window
            first = int(edges[window])
            last = int(edges[window + 1]) if window + 1 < len(edges) else int(starts[-1])
            key = derive_key(self._key, epoch, "window", int(window))
            shuffled[chosen] = first + permute(within[chosen] - first, last - first, key)
        place = np.searchsorted(starts, shuffled, side="right") - 1
        return shards[place], shuffled - starts[place]


@dataclass(frozen=True)
class Share:
    """A dataset's part in a segment: its integer `weight` of PERIOD, and the counter it `start`s at."""

    fingerprint: str
    weight: Annotated[int, Within(1, PERIOD)]
    start: Count


@dataclass(frozen=True)
class Segment:
    """A stretch of the run with one mixture: from position `first` until the next segment's."""

    first: Count
    shares: dict[str, Share]

    @cached_property
    def _names(self) -> list[str]:
        return sorted(self.shares)

    @cached_property
    def _slots(self) -> np.ndarray:
        """Dataset number at each of PERIOD slots: the slots (j + ½) / wᵢ in order."""
        weights = [self.shares[name].weight for name in self._names]
        number = np.repeat(np.arange(len(weights)), weights)
        when = np.concatenate([(np.arange(weight) + 0.5) / weight for weight in weights])
        return number[np.lexsort((number, when))]

    @cached_property
    def _before(self) -> np.ndarray:
        """(slots + 1, datasets): how often each dataset came before a slot."""
        hits = self._slots[:, None] == np.arange(len(self._names))[None, :]
        return np.concatenate([np.zeros((1, len(self._names)), dtype=np.int64), np.cumsum(hits, axis=0)])

    def locate(self, positions: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
        """(names, number of the dataset in names, its counter) for `positions` of this segment."""
        periods, slots = np.divmod(np.asarray(positions, dtype=np.int64) - self.first, PERIOD)
        number = self._slots[slots]
        weights = np.array([self.shares[name].weight for name in self._names])
        starts = np.array([self.shares[name].start for name in self._names])
        return self._names, number, starts[number] + periods * weights[number] + self._before[slots, number]

    def counters_at(self, position: int) -> dict[str, int]:
        """Every dataset's counter once all positions before `position` are consumed."""
        periods, slot = divmod(position - self.first, PERIOD)
        return {
            name: share.start + periods * share.weight + int(self._before[slot, number])
            for number, (name, share) in enumerate(sorted(self.shares.items()))
        }

    def position_after(self, name: str, counter: int) -> int:
        """The first position, from the segment's own on, before which a dataset has been taken `counter` times."""
        share, number = self.shares[name], self._names.index(name)
        periods, rest = divmod(max(0, counter - share.start), share.weight)
        if rest == 0:  # with the last of the period before
            if periods == 0:
                return self.first
            periods, rest = periods - 1, share.weight
        return self.first + periods * PERIOD + int(self._before[:, number].searchsorted(rest))

    def to_json(self) -> dict[str, Any]:
        """A JSON object; from_json's inverse."""
        return {"first": self.first, "shares": {name: vars(share) for name, share in sorted(self.shares.items())}}

    def check(self) -> None:
        """Malformed unless the weights are shares of a period."""
        if sum(share.weight for share in self.shares.values()) != PERIOD:
            raise Malformed(f"the weights of a segment don't add up to {PERIOD}")


def integer_weights(weights: dict[str, float]) -> dict[str, int]:
    """Weights as integers that sum to PERIOD, by largest remainder. ConfigError if one is too small to be seen."""
    total = sum(weights.values())
    exact = {name: weight / total * PERIOD for name, weight in weights.items()}
    whole = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (whole[name] - exact[name], name))
    for name in by_remainder[: PERIOD - sum(whole.values())]:
        whole[name] += 1
    for name, share in whole.items():
        if share == 0:
            raise ConfigError(
                f"data.train.{name}.weight={weights[name]} is below 1/{PERIOD} of the mixture: "
                "raise it or leave the set out."
            )
    return whole


def extend(segments: list[Segment], *, first: int, rows: Iterable[Rows], weights: dict[str, float]) -> list[Segment]:
    """The segments of a run that goes on at position `first` with these datasets and weights.

    An unchanged mixture adds nothing. A changed one appends a segment in which every dataset, known by its
    fingerprint, goes on at its own counter (also one that rested), and a new one begins at 0: nothing repeats or is
    lost. Segments from `first` on belonged to steps that a resume discards.
    """
    earlier = [segment for segment in segments if segment.first < first]
    counters = consumed(segments, first)
    whole, shares = integer_weights(weights), {}
    for dataset in rows:
        start = counters.get(dataset.fingerprint, 0)
        shares[dataset.name] = Share(dataset.fingerprint, whole[dataset.name], start)
    if earlier and mixture_of(earlier[-1]) == mixture_of(Segment(first, shares)):
        return earlier
    return [*earlier, Segment(first, shares)]


def consumed(segments: list[Segment], position: int) -> dict[str, int]:
    """How many rows of each dataset, by fingerprint, come before a position."""
    earlier = [segment for segment in segments if segment.first < position]
    counters: dict[str, int] = {}
    for index, segment in enumerate(earlier):
        until = earlier[index + 1].first if index + 1 < len(earlier) else position
        for name, counter in segment.counters_at(until).items():
            counters[segment.shares[name].fingerprint] = counter
    return counters


def mixture_of(segment: Segment) -> dict[str, tuple[str, int]]:
    """Fingerprint and weight of every dataset: what makes two segments the same mixture."""
    return {name: (share.fingerprint, share.weight) for name, share in segment.shares.items()}


@dataclass(frozen=True)
class Place:
    """Where a position's sequence comes from."""

    dataset: str
    fingerprint: str
    epoch: int
    shard: int
    row: int


@dataclass(frozen=True)
class Places:
    """Where the sequences of positions come from, as columns, each (n,) int64.

    `dataset` is a number in the order's datasets, `segment` one in its segments.
    """

    segment: np.ndarray
    dataset: np.ndarray
    epoch: np.ndarray
    shard: np.ndarray
    row: np.ndarray

    def cut(self, start: int, stop: int) -> Places:
        """Places [start, stop) of these."""
        columns = (self.segment, self.dataset, self.epoch, self.shard, self.row)
        return Places(*(column[start:stop] for column in columns))


class Order:
    """Position → place, over all segments of a run."""

    def __init__(self, datasets: Iterable[Rows], segments: list[Segment], *, seed: int, window: int) -> None:
        self.segments = segments
        self._shuffles = {rows.fingerprint: Shuffle(rows, seed=seed, window=window) for rows in datasets}
        self.fingerprints = list(self._shuffles)

    def places(self, start: int, stop: int) -> list[Place]:
        """The places of positions [start, stop), one by one."""
        found = self.locate(np.arange(start, stop))
        names = [{share.fingerprint: name for name, share in segment.shares.items()} for segment in self.segments]
        columns = (found.segment, found.dataset, found.epoch, found.shard, found.row)
        return [
            Place(names[segment][self.fingerprints[dataset]], self.fingerprints[dataset], *place)
            for segment, dataset, *place in zip(*(column.tolist() for column in columns), strict=True)
        ]

    def locate(self, positions: np.ndarray) -> Places:
        """The places of `positions` (n,) int64, in any order. Thousands at once cost a tenth of them one by one."""
        segments = np.searchsorted([segment.first for segment in self.segments], positions, side="right") - 1
        found = Places(segments, *np.empty((4, len(positions)), np.int64))
        for number in np.unique(segments).tolist():
            chosen = np.flatnonzero(segments == number)
            names, numbers, counters = self.segments[number].locate(positions[chosen])
            for index, name in enumerate(names):
                mine = numbers == index
                if mine.any():
                    self._fill(found, chosen[mine], counters[mine], name, self.segments[number].shares[name])
        return found

    def _fill(self, found: Places, chosen: np.ndarray, counters: np.ndarray, name: str, share: Share) -> None:
        """Sets the `chosen` places, which are at the `counters` of one dataset."""
        if share.fingerprint not in self._shuffles:
            raise InputError(
                f"data.train.{name} ({share.fingerprint[:12]}) was trained on before and can't be found now."
            )
        epoch, shard, row = self._shuffles[share.fingerprint].locate(counters)
        found.dataset[chosen] = self.fingerprints.index(share.fingerprint)
        found.epoch[chosen], found.shard[chosen], found.row[chosen] = epoch, shard, row

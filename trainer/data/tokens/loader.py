"""Positions of the order → batches of tensors, read ahead by a thread. The only state is the position."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import torch

from trainer.config.batches import chunk_of, rounds
from trainer.config.ramps import Ramps
from trainer.data.remote.fetcher import BadShard
from trainer.data.remote.left_out import LeftOutRow, RowsLeftOut
from trainer.data.remote.lookahead import Lookahead
from trainer.data.tokens.dataset import Dataset
from trainer.data.tokens.order import Order, Places
from trainer.data.tokens.stream_rows import every_shard
from trainer.data.tokens.token_rows import GatheredRows, merge_rows
from trainer.errors import InputError

# Rows of tokens, and their positions → a batch: an objective's (trainer/objective/)
ToBatch = Callable[..., "Batch"]

PLACED_ROWS = 4096  # whose places are looked up at once: 0.4 µs a row, where 256 at once cost ten times that
GATHERED_TOKENS = 2**19  # that are read at once, by one indexing of each shard; 25 MB or so are held ahead
GATHERED_BATCHES = 64  # at most: with short rows, thousands of micro-batches would have to be read before the first
IGNORED = -100  # target that has no loss


@dataclass(frozen=True)
class Batch:
    """A micro-batch. `inputs`, `targets`: (rows, time) int64; `document_ids` likewise, or None without masks.

    Inputs and targets may share memory, so they aren't written into.
    `positions`, (rows,) int64, are those of its rows in the run. `more`, tensors of (rows, …), is an objective's own.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    document_ids: torch.Tensor | None
    positions: np.ndarray
    more: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def position(self) -> int:
        """Of its first row in the run: the seed of its dropout."""
        return int(self.positions[0])

    def split(self, size: int) -> list[Batch]:
        """Batches of `size` of its rows each, the last perhaps of fewer, as views."""
        tensors = self.inputs.split(size), self.targets.split(size)
        ids = [None] * len(tensors[0]) if self.document_ids is None else self.document_ids.split(size)
        positions = (self.positions[start : start + size] for start in range(0, len(self.positions), size))
        more = {name: tensor.split(size) for name, tensor in self.more.items()}
        return [
            Batch(*each, {name: parts[number] for name, parts in more.items()})
            for number, each in enumerate(zip(*tensors, ids, positions, strict=True))
        ]

    def cut(self, length: int) -> Batch:
        """Its rows, cut into such of `length` tokens; positions are those of the rows that they come from."""
        time = self.inputs.shape[1]
        if length == time:
            return self
        if self.more or time % length:  # trainer/config/ramps.py refuses such
            raise ValueError(f"rows of {time} can't be cut into {length}")
        ids = None if self.document_ids is None else self.document_ids.reshape(-1, length)
        positions = np.repeat(self.positions, time // length)
        return Batch(self.inputs.reshape(-1, length), self.targets.reshape(-1, length), ids, positions)

    def without_targets(self, rows: int | np.ndarray) -> Batch:
        """The batch, whose rows from the `rows`-th on, or of these numbers, have no target that counts."""
        if isinstance(rows, int):
            rows = np.arange(rows, len(self.targets))
        if not len(rows):
            return self
        targets = self.targets.clone()  # which may share the inputs' memory
        targets[torch.from_numpy(rows)] = IGNORED
        return replace(self, targets=targets)

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`; from pinned memory the copy doesn't wait."""
        if device.type == "cpu":
            return self

        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.pin_memory().to(device, non_blocking=True)

        ids = None if self.document_ids is None else move(self.document_ids)
        more = {name: move(tensor) for name, tensor in self.more.items()}
        return Batch(move(self.inputs), move(self.targets), ids, self.positions, more)


@dataclass(frozen=True)
class _Group:
    """Micro-batches that are read together: whether each counts, and the positions and places of all their rows."""

    counts: list[bool]
    positions: np.ndarray
    places: Places

    def cut(self, first: int, last: int, size: int) -> _Group:
        """Micro-batches [first, last), of `size` rows each."""
        rows = slice(first * size, last * size)
        return _Group(self.counts[first:last], self.positions[rows], self.places.cut(rows.start, rows.stop))


@dataclass(frozen=True)
class Loader:
    """Batches of one data rank. Micro-step m of a step takes chunk m·W + r of the global batch, of a size by `ramps`.

    Where W doesn't divide the number of chunks, the last micro-step of some ranks has none left: theirs is a batch
    whose targets are all ignored.
    """

    datasets: list[Dataset]
    order: Order
    ramps: Ramps
    micro_batch_size: int
    rank: int
    world_size: int
    to_batch: ToBatch
    prefetch: int
    reading: dict[str, float] = field(default_factory=dict)  # seconds, by dataset and its folder
    lookahead: Lookahead | None = None  # told of what is read
    left_out: RowsLeftOut = field(default_factory=RowsLeftOut)

    def batches(self, position: int) -> Iterator[Batch]:
        """Micro-batches from `position` on; the next `prefetch` ones are being read meanwhile.

        Without end, but where they are fetched: nothing is read that the run doesn't need.

        One thread reads: for this work a second one would only wait for Python's lock.
        """
        groups = self._groups(position)
        ahead = -(-self.prefetch // self._slots_at_once)
        pending: deque[Future[Iterable[Batch] | None]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="loader") as reader:
            try:
                while True:
                    while len(pending) <= ahead:
                        pending.append(reader.submit(self._read_next, groups))
                    batches = pending.popleft().result()
                    if batches is None:
                        return
                    yield from batches
            finally:
                reader.shutdown(wait=False, cancel_futures=True)

    @property
    def _slots_at_once(self) -> int:
        """Micro-batches that are read together."""
        fitting = GATHERED_TOKENS // (self.micro_batch_size * self.datasets[0].sequence_length)
        return min(max(1, fitting), GATHERED_BATCHES)

    def _slots(self, position: int) -> Iterator[tuple[int, bool]]:
        """First position of each of this rank's chunks, and whether it counts."""
        for first, size in self.ramps.steps(position):
            if self.lookahead is not None and first >= self.lookahead.stop:
                return
            chunks = size.rows // self.micro_batch_size
            for micro_step in range(rounds(chunks, self.world_size)):
                chunk = chunk_of(micro_step, rank=self.rank, world_size=self.world_size)
                yield first + min(chunk, chunks - 1) * self.micro_batch_size, chunk < chunks

    def _groups(self, position: int) -> Iterator[_Group]:
        """The slots, as many as are read at once, with the places of their rows."""
        slots, size, count = self._slots(position), self.micro_batch_size, self._slots_at_once
        while many := list(islice(slots, max(1, PLACED_ROWS // (count * size)) * count)):
            starts = np.array([start for start, _ in many])
            positions = (starts[:, None] + np.arange(size)).ravel()
            group = _Group([counts for _, counts in many], positions, self.order.locate(positions))
            for first in range(0, len(many), count):
                yield group.cut(first, min(first + count, len(many)), size)

    def _read_next(self, groups: Iterator[_Group]) -> Iterable[Batch] | None:
        """The batches of the next group; None if there is none. Where a row is damaged, those before it still come."""
        group = next(groups, None)
        if group is None:
            if self.lookahead is not None:
                self.lookahead.advance(self.lookahead.stop)  # others need the cache's room now
            return None
        if self.lookahead is not None:
            self.lookahead.advance(int(group.positions.min()))
        try:
            return self._read(group)
        except BadShard:
            raise
        except InputError:
            size = self.micro_batch_size
            return (batch for slot in range(len(group.counts)) for batch in self._read(group.cut(slot, slot + 1, size)))

    def _read(self, group: _Group) -> list[Batch]:
        """The batches of a group, which are views of its tensors."""
        rows, bad = self._gather(group.places)
        whole = self.to_batch(rows, positions=group.positions).without_targets(bad)
        self._list(group, bad)
        batches = zip(whole.split(self.micro_batch_size), group.counts, strict=True)
        return [batch if counts else batch.without_targets(0) for batch, counts in batches]

    def _list(self, group: _Group, bad: np.ndarray) -> None:
        """Notes rows that are left out, those of chunks that don't count left aside."""
        by_fingerprint = {dataset.manifest.fingerprint: dataset for dataset in self.datasets}
        for number in bad.tolist():
            if group.counts[number // self.micro_batch_size]:
                dataset = by_fingerprint[self.order.fingerprints[group.places.dataset[number]]]
                file = dataset.manifest.shards[group.places.shard[number]].file
                place = int(group.positions[number]), dataset.name, file, int(group.places.row[number])
                self.left_out.add([LeftOutRow(*place)])

    def _gather(self, places: Places) -> tuple[GatheredRows, np.ndarray]:
        """The rows at `places`, of the widest dtype of the datasets; the numbers of those that can't be had."""
        by_fingerprint = {dataset.manifest.fingerprint: dataset for dataset in self.datasets}
        datasets = [by_fingerprint[self.order.fingerprints[number]] for number in np.unique(places.dataset).tolist()]
        if len(datasets) == 1:
            return self._gather_from(datasets[0], places.shard, places.row)
        parts, all_bad = [], []
        for dataset in datasets:
            chosen = np.flatnonzero(places.dataset == self.order.fingerprints.index(dataset.manifest.fingerprint))
            rows, bad = self._gather_from(dataset, places.shard[chosen], places.row[chosen])
            parts.append((chosen, rows))
            all_bad.append(chosen[bad])
        return merge_rows(parts, len(places.row)), np.concatenate(all_bad)

    def _gather_from(self, dataset: Dataset, shards: np.ndarray, rows: np.ndarray) -> tuple[GatheredRows, np.ndarray]:
        """Rows of one dataset, as `_gather`; how long they took is noted."""
        began = time.perf_counter()
        found, bad = gather_what_is_there(dataset, shards, rows)
        place = f"{dataset.name} ({dataset.manifest.folder})"
        self.reading[place] = self.reading.get(place, 0.0) + time.perf_counter() - began
        return found, bad


def gather_what_is_there(dataset: Dataset, shards: np.ndarray, rows: np.ndarray) -> tuple[GatheredRows, np.ndarray]:
    """Rows of shards, both (n,), as Dataset.gather_rows, blank where a shard's are left out; the numbers of those."""
    if dataset.remote is None or not dataset.remote.skips:
        return dataset.gather_rows(shards, rows), np.empty(0, np.int64)
    lasts = dataset.last_shards(shards, rows)
    left_out = dataset.remote.left_out(every_shard(shards, lasts))
    if not len(left_out):
        return dataset.gather_rows(shards, rows), left_out
    is_bad = left_out.searchsorted(shards) < left_out.searchsorted(lasts, side="right")
    bad, good = np.flatnonzero(is_bad), np.flatnonzero(~is_bad)
    parts = [(bad, dataset.blank_rows(len(bad)))]
    if len(good):
        parts.append((good, dataset.gather_rows(shards[good], rows[good])))
    return merge_rows(parts, len(rows)), bad


def validation_batches(
    dataset: Dataset, *, rows: int, micro_batch_size: int, rank: int, world_size: int, to_batch: ToBatch
) -> Iterator[tuple[int, Batch]]:
    """(number of the first row, batch) over the first `rows` rows in file order, the same number on every rank.

    Past the end, a batch is padded with rows whose targets are all ignored, so that no rank waits for another.
    """
    stride = micro_batch_size * world_size
    for base in range(0, rows, stride):
        first = base + rank * micro_batch_size
        numbers = np.minimum(first + np.arange(micro_batch_size), rows - 1)
        batch = to_batch(dataset.rows_in_file_order(numbers), positions=numbers)
        yield first, batch.without_targets(max(0, rows - first))

"""Positions of the order → batches of tensors, read ahead by threads. The only state is the position."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from trainer.config.batches import chunk_of, rounds
from trainer.data.tokens.dataset import Dataset
from trainer.data.tokens.order import Order, Place

# Rows of tokens, position of the first → a micro-batch: an objective's (trainer/objective/)
ToBatch = Callable[..., "Batch"]

READERS = 2  # threads; the order of batches doesn't depend on it
ROWS_AHEAD = 256  # whose places are looked up at once, since one costs as much
IGNORED = -100  # target that has no loss


@dataclass(frozen=True)
class Batch:
    """A micro-batch. `inputs`, `targets`: (rows, time) int64; `document_ids` likewise, or None without masks.

    `position` is that of its first row in the run: the seed of its dropout.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    document_ids: torch.Tensor | None
    position: int

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`; from pinned memory the copy doesn't wait."""
        if device.type == "cpu":
            return self
        moved = [
            None if tensor is None else tensor.pin_memory().to(device, non_blocking=True)
            for tensor in (self.inputs, self.targets, self.document_ids)
        ]
        assert moved[0] is not None
        assert moved[1] is not None
        return Batch(moved[0], moved[1], moved[2], self.position)


@dataclass(frozen=True)
class Loader:
    """Batches of one data rank. Micro-step m of a step takes chunk m·W + r of the global batch.

    Where W doesn't divide the number of chunks, the last micro-step of some ranks has none left: theirs is a batch
    whose targets are all ignored.
    """

    datasets: list[Dataset]
    order: Order
    batch_size: int
    micro_batch_size: int
    rank: int
    world_size: int
    to_batch: ToBatch
    prefetch: int

    def batches(self, position: int) -> Iterator[Batch]:
        """Micro-batches from `position` on, without end; the next `prefetch` ones are being read meanwhile."""
        pending: deque[Future[Batch]] = deque()
        ahead = self._slots_with_places(position)
        with ThreadPoolExecutor(READERS, thread_name_prefix="loader") as readers:
            try:
                while True:
                    while len(pending) < self.prefetch:
                        pending.append(readers.submit(self._read, *next(ahead)))
                    yield pending.popleft().result()
            finally:
                readers.shutdown(wait=False, cancel_futures=True)

    def _slots(self, position: int) -> Iterator[tuple[int, bool]]:
        """First position of each of this rank's chunks, and whether it counts."""
        chunks = self.batch_size // self.micro_batch_size
        while True:
            for micro_step in range(rounds(chunks, self.world_size)):
                chunk = chunk_of(micro_step, rank=self.rank, world_size=self.world_size)
                yield position + min(chunk, chunks - 1) * self.micro_batch_size, chunk < chunks
            position += self.batch_size

    def _slots_with_places(self, position: int) -> Iterator[tuple[int, bool, list[Place]]]:
        """The slots, each with the places of its rows."""
        slots, size = self._slots(position), self.micro_batch_size
        while True:
            group = list(islice(slots, -(-ROWS_AHEAD // size)))
            starts = np.array([start for start, _ in group])
            places = self.order.places_at((starts[:, None] + np.arange(size)).ravel())
            for index, (start, counts) in enumerate(group):
                yield start, counts, places[index * size : (index + 1) * size]

    def _read(self, position: int, counts: bool, places: list[Place]) -> Batch:
        by_fingerprint = {dataset.manifest.fingerprint: dataset for dataset in self.datasets}
        rows = [by_fingerprint[place.fingerprint].row(place.shard, place.row) for place in places]
        batch = self.to_batch(rows, position=position)
        if not counts:
            batch.targets.fill_(IGNORED)
        return batch


def validation_batches(
    dataset: Dataset, *, rows: int, micro_batch_size: int, rank: int, world_size: int, to_batch: ToBatch
) -> Iterator[tuple[int, Batch]]:
    """(number of the first row, batch) over the first `rows` rows in file order, the same number on every rank.

    Past the end, a batch is padded with rows whose targets are all ignored, so that no rank waits for another.
    """
    stride = micro_batch_size * world_size
    for base in range(0, rows, stride):
        first = base + rank * micro_batch_size
        numbers = [min(first + offset, rows - 1) for offset in range(micro_batch_size)]
        read = [dataset.row_in_file_order(number) for number in numbers]
        batch = to_batch(read, position=first)
        batch.targets[max(0, rows - first) :] = IGNORED
        yield first, batch

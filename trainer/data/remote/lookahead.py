"""Which fetched shards a run needs next, and when: the order is known, so nothing is guessed."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from trainer.data.remote.cached_shard import CachedShard, folder_name
from trainer.data.tokens.order import Order

SCANNED = 2**13  # positions that are looked up at once: 3 ms, during which no other thread of Python runs
FARTHEST = 2**22  # positions ahead that are looked at, at most; 8 bytes of memory each
MOST_UPCOMING = 256  # shards that are looked for, at most: each that is held has two descriptors


@dataclass
class _Needs:
    """Positions at which a shard is needed, in ascending order, in pieces."""

    pieces: list[np.ndarray] = field(default_factory=list)

    def following(self, position: int) -> float:
        """The first that isn't before `position`; infinity if none is known."""
        while self.pieces and self.pieces[0][-1] < position:
            del self.pieces[0]
        if not self.pieces:
            return math.inf
        piece = self.pieces[0]
        return float(piece[piece.searchsorted(position)])


# Shards and rows of a dataset, both (n,) → the shards that the rows end in (n,): they may go on in the next ones
LastShards = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Lookahead:
    """The needs of a run from position `start` to before `stop`. Threads may share it.

    `shards` are those of the datasets that are fetched, by their fingerprints; `most_bytes` of them are looked for.
    `last_shards` tell where rows end.
    """

    def __init__(
        self,
        order: Order,
        shards: Mapping[str, list[CachedShard]],
        last_shards: Mapping[str, LastShards],
        *,
        start: int,
        stop: int,
        most_bytes: int,
    ) -> None:
        self._order = order
        self._shards = {order.fingerprints.index(fingerprint): each for fingerprint, each in shards.items()}
        self._last_shards = {order.fingerprints.index(fingerprint): each for fingerprint, each in last_shards.items()}
        self._by_name = {(folder_name(s.fingerprint), s.file): s for each in shards.values() for s in each}
        self._all = len(self._by_name)
        self._needs: dict[CachedShard, _Needs] = {}
        self._position = self._scanned = start
        self.stop = stop
        self._most_bytes = most_bytes
        self._mutex = threading.Lock()

    @property
    def position(self) -> int:
        """What is read next."""
        return self._position

    def advance(self, position: int) -> None:
        """All before `position` has been read."""
        self._position = position

    def upcoming(self) -> list[tuple[float, CachedShard]]:
        """(position, shard): the shards that are needed next and when, the nearest first."""
        with self._mutex:
            while True:
                found = self._known()
                size = sum(shard.shard.bytes for _, shard in found)
                if size >= self._most_bytes or len(found) >= min(self._all, MOST_UPCOMING) or not self._scan():
                    return found

    def next_use(self, folder: str, file: str) -> float | None:
        """As shard_cache.NextUse, by a shard's folder and file in the cache; None of one of another dataset."""
        shard = self._by_name.get((folder, file))
        if shard is None:
            return None
        with self._mutex:
            return self._needs.get(shard, _Needs()).following(self._position)

    def _known(self) -> list[tuple[float, CachedShard]]:
        found = [(needs.following(self._position), shard) for shard, needs in self._needs.items()]
        return sorted((each for each in found if not math.isinf(each[0])), key=lambda each: each[0])

    def _scan(self) -> bool:
        """Looks farther ahead; False where that is the run's end, or far enough."""
        self._scanned = max(self._scanned, self._position)
        stop = min(self._scanned + SCANNED, self.stop)
        if stop <= self._scanned or self._scanned - self._position >= FARTHEST:
            return False
        places = self._order.locate(np.arange(self._scanned, stop))
        for dataset, shards in self._shards.items():
            positions = np.flatnonzero(places.dataset == dataset)
            numbers = places.shard[positions]
            numbers, positions = _each_shard(
                numbers, self._last_shards[dataset](numbers, places.row[positions]), positions
            )
            for number, needed in _by_shard(numbers, positions):
                self._needs.setdefault(shards[number], _Needs()).pieces.append(needed + self._scanned)
        self._scanned = stop
        return True


def _each_shard(first: np.ndarray, last: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The shards from `first` to `last` of each position, and the position with each of them."""
    numbers, repeated = [first], [positions]
    while len(positions):
        going_on = last > first
        first, last, positions = first[going_on] + 1, last[going_on], positions[going_on]
        numbers.append(first)
        repeated.append(positions)
    return np.concatenate(numbers), np.concatenate(repeated)


def _by_shard(numbers: np.ndarray, positions: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each shard with its positions, ascending."""
    order = np.lexsort((positions, numbers))
    found, starts = np.unique(numbers[order], return_index=True)
    yield from zip(found.tolist(), np.split(positions[order], starts[1:]), strict=bool(len(found)))

"""Shards that the cache brings, read as those of a folder are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from trainer.data.remote.cached_shard import CachedShard
from trainer.data.remote.fetcher import BadShard, Fetcher
from trainer.data.remote.fetching import SKIP
from trainer.data.tokens.manifest import Manifest
from trainer.data.tokens.open_files import MOST_OPEN, OpenFile
from trainer.data.tokens.shards import ShardReader, Shards
from trainer.data.tokens.token_reader import TokenReader

Opened = TypeVar("Opened")


class HeldFile(OpenFile):
    """A file that stays mapped as long as it is read: its name may be gone before."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._content = super().content()
        super().close()

    def content(self) -> Any:
        """Its bytes: (size,) uint8, read-only, or what decrypts them."""
        return self._content


class RemoteShards(Shards, ABC):
    """As Shards, of files that `fetcher` brings. What asks for one waits until it is there.

    `skips` where rows of one that can't be had are left out (data.on_bad_shard=skip).
    """

    cached: list[CachedShard]

    def __init__(self, manifest: Manifest, fetcher: Fetcher, *, on_bad_shard: str) -> None:
        super().__init__(manifest, MOST_OPEN)
        self.fetcher = fetcher
        self.skips = on_bad_shard == SKIP
        self._last = -1  # that was asked for
        fetcher.add_reader(self)

    @abstractmethod
    def bring(self, number: int) -> None:
        """Returns once a shard is there to be read. BadShard where it can't be had."""

    @abstractmethod
    def forget(self, shard: CachedShard) -> None:
        """Closes a shard of this dataset; who reads it may go on."""

    def find_missing(self, part: int, parts: int) -> str | None:
        """What is missing of every `parts`-th shard from `part` on: a line. None of what is looked for when needed."""
        return None

    @property
    def index_bytes(self) -> int:
        """What the cache keeps of the dataset whatever is needed."""
        return 0

    def left_out(self, numbers: np.ndarray) -> np.ndarray:
        """Those of the shards whose rows are skipped, ascending, once all others are there."""
        if not self.skips:
            return np.empty(0, np.int64)
        bad = []
        for number in np.unique(numbers).tolist():
            try:
                self.bring(number)
            except BadShard:
                bad.append(number)
        return np.array(bad, np.int64)

    @contextmanager
    def _acquired(self, number: int) -> Iterator[Path]:
        """The file of a shard, to be opened within the block, once it is there. BadShard where it can't be had."""
        if number in (0, self._last + 1):
            self.fetcher.expect(self.cached[number + 1 : number + 3])
        self._last = number
        shard = self.cached[number]
        with self.fetcher.acquired(shard):
            yield self.fetcher.cache.folder / shard.name

    def _keep(self, opened: OrderedDict[int, Opened], number: int, newest: Opened) -> None:
        """Notes what is open of a shard, and lets go of the shards that were used the longest ago."""
        with self._lock:
            opened[number] = newest
            gone = [opened.popitem(last=False)[0] for _ in range(len(opened) - self._most)]
        for each in gone:
            self.fetcher.let_go(self.cached[each])

    def _look_up(self, opened: OrderedDict[int, Opened], number: int) -> Opened | None:
        with self._lock:
            found = opened.get(number)
            if found is not None:
                opened.move_to_end(number)
            return found

    def _drop(self, opened: OrderedDict[int, Opened], shard: CachedShard) -> None:
        with self._lock:
            if shard.number in opened and self.cached[shard.number] == shard:
                del opened[shard.number]


class RemoteTokenShards(RemoteShards):
    """Token shards at `address`."""

    def __init__(self, manifest: Manifest, address: str, fetcher: Fetcher, *, on_bad_shard: str) -> None:
        super().__init__(manifest, fetcher, on_bad_shard=on_bad_shard)
        self.cached = [
            CachedShard(manifest.fingerprint, number, shard, manifest.dtype, f"{address}/{shard.file}")
            for number, shard in enumerate(manifest.shards)
        ]

    def __getitem__(self, number: int) -> TokenReader:  # type: ignore[override]
        """The reader of a shard. BadShard where it can't be had."""
        reader = self._look_up(self._readers, number)
        if reader is None:
            shard = self.cached[number]
            with self._acquired(number) as path:
                reader = ShardReader(path.parent, shard.shard, shard.dtype, HeldFile(path))
                self._keep(self._readers, number, reader)
        return reader

    def bring(self, number: int) -> None:
        """Opens its reader."""
        self[number]

    def forget(self, shard: CachedShard) -> None:
        """Drops its reader; who has it may go on."""
        self._drop(self._readers, shard)

"""The shards of a dataset that lies elsewhere, each read from the cache once it is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.remote.fetcher import BadShard, Fetcher
from trainer.data.remote.fetching import SKIP
from trainer.data.remote.shard_cache import CachedShard, folder_name
from trainer.data.tokens.manifest import Manifest
from trainer.data.tokens.open_files import MOST_OPEN, OpenFile
from trainer.data.tokens.shards import ShardReader, Shards
from trainer.data.tokens.token_reader import TokenReader


class _HeldFile(OpenFile):
    """A file that stays mapped as long as it is read: its name may be gone before."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._content = super().content()
        super().close()

    def content(self) -> Any:
        return self._content


class RemoteShards(Shards):
    """As Shards, of files at `address` that `fetcher` brings. What asks for one waits until it is there.

    `skips` where rows of one that can't be had are left out (data.on_bad_shard=skip).
    """

    def __init__(self, manifest: Manifest, address: str, fetcher: Fetcher, *, on_bad_shard: str) -> None:
        super().__init__(manifest, MOST_OPEN)
        self.fetcher = fetcher
        self.skips = on_bad_shard == SKIP
        self.cached = [
            CachedShard(manifest.fingerprint, number, shard, manifest.dtype, f"{address}/{shard.file}")
            for number, shard in enumerate(manifest.shards)
        ]
        self._last = -1  # that was asked for
        fetcher.add_reader(self)

    def __getitem__(self, number: int) -> TokenReader:  # type: ignore[override]
        """The reader of a shard. BadShard where it can't be had."""
        with self._lock:
            reader = self._readers.get(number)
            if reader is not None:
                self._readers.move_to_end(number)
                return reader
        if number in (0, self._last + 1):
            self.fetcher.expect(self.cached[number + 1 : number + 3])
        self._last = number
        shard = self.cached[number]
        self.fetcher.acquire(shard)
        folder = self.fetcher.cache.folder / folder_name(shard.fingerprint)
        file = _HeldFile(folder / shard.shard.file)
        reader = ShardReader(folder, shard.shard, shard.dtype, file)
        with self._lock:
            self._readers[number] = reader
            gone = [self._readers.popitem(last=False)[0] for _ in range(len(self._readers) - self._most)]
        for each in gone:
            self.fetcher.let_go(self.cached[each])
        return reader

    def forget(self, shard: CachedShard) -> None:
        """Closes a shard of this dataset; who has its reader may go on."""
        with self._lock:
            reader = self._readers.get(shard.number)
            if reader is not None and self.cached[shard.number] == shard:
                del self._readers[shard.number]

    def left_out(self, numbers: np.ndarray) -> np.ndarray:
        """Those of the shards whose rows are skipped, once all others are there. BadShard unless rows may be."""
        if not self.skips:
            return np.empty(0, np.int64)
        bad = []
        for number in np.unique(numbers).tolist():
            try:
                self[number]
            except BadShard:
                bad.append(number)
        return np.array(bad, np.int64)

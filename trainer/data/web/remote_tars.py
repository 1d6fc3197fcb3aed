"""Tars of others that lie at a URL or on a mount: brought into the node's cache ahead of use, as our own shards are."""

from __future__ import annotations

import hashlib
import io
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from trainer.data.remote.cached_shard import CachedShard
from trainer.data.remote.fetcher import Fetcher, fetcher_of
from trainer.data.remote.fetching import STOP, Fetching
from trainer.data.remote.mirror import mirror_files
from trainer.data.remote.origin import BadFile, fetch_all
from trainer.data.remote.remote_shards import HeldFile, RemoteShards
from trainer.data.text.reading import Reading
from trainer.data.text.records import Rejected
from trainer.data.text.remote import is_remote, shown_url
from trainer.data.tokens.manifest import Manifest
from trainer.data.tokens.shards import Shards, find_missing
from trainer.data.tokens.token_reader import TokenReader
from trainer.data.web.columns import BYTES, KIND, OFFSET, RECORD, TEXT_HIGH, TEXT_LOW, index_bytes
from trainer.data.web.members import content_of_document
from trainer.data.web.reader import IndexedTar, hash_content
from trainer.data.web.source_file import SourceFile, describe_change, shown_address
from trainer.errors import require
from trainer.machine.durable import write_bytes

SUM = ".sha256"  # beside a tar of the cache, of what came


def open_tars(manifest: Manifest, address: str | None, fetching: Fetching) -> Shards:
    """The shards of an indexed dataset, whose index is at `address` where that isn't None.

    Tars on a disk of this machine are read there, and so are all with data.cache_bytes=0: from a URL by ranges.
    """
    if address is not None:
        files = {shard.file: (index_bytes(shard.documents), shard.sha256) for shard in manifest.shards}
        mirror_files(manifest.folder, address, files)
    lies_elsewhere = any(is_remote(shard.indexed.address) for shard in manifest.shards if shard.indexed)
    if not (lies_elsewhere or fetching.cache is not None):
        return Shards(manifest)
    if fetching.cache_bytes == 0:
        require(
            fetching.on_bad_shard == STOP,
            f"data.on_bad_shard={fetching.on_bad_shard} with data.cache_bytes=0: what is read by ranges is waited for "
            "by each request alone, and nothing of it is skipped; give the cache room, or leave data.on_bad_shard out.",
        )
        return Shards(manifest)
    return RemoteTars(manifest, address, fetcher_of(fetching), on_bad_shard=fetching.on_bad_shard)


@dataclass(frozen=True)
class CachedTar(CachedShard):
    """A tar of others. What has come is compared with the index, document by document: nobody stated its hash."""

    reading: Reading = field(compare=False)
    columns: Callable[[], np.ndarray] = field(compare=False)  # of its index

    @property
    def file(self) -> str:
        """Its name in the cache, beside its index."""
        return f"{Path(self.shard.file).stem}.source.tar"

    @property
    def mend(self) -> str:
        """What to do where it can't be had."""
        return (
            "restore it as it was indexed, or index the data again (banyan data index DIR tells whether its documents "
            "are the same), and run the same command again"
        )

    def fetch(self, file: io.FileIO) -> None:
        """Fetches it, unless its server says that it has changed: BadFile."""
        problem = describe_change(self.shard)
        if problem:
            raise BadFile(problem)
        fetch_all(self.address, file, size=self.shard.bytes)

    def admit(self, partial: Path, path: Path) -> None:
        """Compares every document's hash with the index. BadFile where one differs."""
        with open(partial, "rb") as file:
            for column in self.columns().T:
                offset, size, kind, record = column[[OFFSET, BYTES, KIND, RECORD]].tolist()
                file.seek(offset)
                content = content_of_document(file.read(size), kind, self.reading)
                if isinstance(content, Rejected) or hash_content(content) != (column[TEXT_HIGH], column[TEXT_LOW]):
                    raise BadFile(
                        f"{shown_address(self.address)}: record {record:,} isn't what was indexed (its hash differs)"
                    )
            file.seek(0)
            write_bytes(path.with_suffix(SUM), hashlib.file_digest(file, "sha256").hexdigest().encode())

    def is_whole(self, path: Path, file: io.BufferedReader) -> bool:
        """Whether it is still what had come."""
        try:
            return path.with_suffix(SUM).read_bytes() == hashlib.file_digest(file, "sha256").hexdigest().encode()
        except FileNotFoundError:
            return False


class RemoteTars(RemoteShards):
    """The shards of an indexed dataset, of whose tars the cache has what is needed. Their index is here."""

    def __init__(self, manifest: Manifest, address: str | None, fetcher: Fetcher, *, on_bad_shard: str) -> None:
        super().__init__(manifest, fetcher, on_bad_shard=on_bad_shard)
        self._address = address
        self._contents: OrderedDict[int, HeldFile] = OrderedDict()
        self.cached = [
            CachedTar(
                manifest.fingerprint,
                number,
                shard,
                manifest.dtype,
                shard.indexed.address if shard.indexed else "",
                self._encoded.reading,
                lambda number=number: self._columns(number),  # type: ignore[misc]
            )
            for number, shard in enumerate(manifest.shards)
        ]

    def bring(self, number: int) -> None:
        """Maps its tar."""
        self.content(number)

    def content(self, number: int) -> np.ndarray:
        """The bytes of a tar: (size,) uint8, read-only. BadShard where it can't be had."""
        held = self._look_up(self._contents, number)
        if held is None:
            with self._acquired(number) as path:
                held = HeldFile(path)
                self._keep(self._contents, number, held)
        return held.content()

    def forget(self, shard: CachedShard) -> None:
        """Lets go of its tar's map."""
        self._drop(self._contents, shard)

    def find_missing(self, part: int, parts: int) -> str | None:
        """The first index that isn't here, or tar on a mount that has changed."""
        if self._address is not None:
            return None  # what is in the cache was looked at when it was opened
        found = (find_missing(self._manifest.folder, shard) for shard in self._manifest.shards[part::parts])
        return next((problem for problem in found if problem), None)

    @property
    def index_bytes(self) -> int:
        """Of an index at a URL, which is in the cache as a whole."""
        return 0 if self._address is None else sum(index_bytes(shard.documents) for shard in self._manifest.shards)

    def _open(self, number: int) -> TokenReader:
        """By its index alone."""
        named = self._manifest.folder if self._address is None else shown_url(self._address)
        return IndexedTar(self._manifest, number, self, self._encoded, _CachedSource(self, number), str(named))

    def _columns(self, number: int) -> np.ndarray:
        reader = self[number]
        assert isinstance(reader, IndexedTar)
        return reader.columns


class _CachedSource(SourceFile):
    """A tar of the cache, which is waited for when something of it is read."""

    def __init__(self, tars: RemoteTars, number: int) -> None:
        self._tars, self._number = tars, number

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        content = self._tars.content(self._number)
        return [content[offset : offset + size].tobytes() for offset, size in ranges]

    def close(self) -> None:
        """The cache's fetcher decides when it goes."""

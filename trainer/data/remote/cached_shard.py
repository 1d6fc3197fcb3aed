"""A shard as the cache keeps it: where it comes from, and when what has come is it."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path

from trainer.data.remote.origin import BadFile, fetch_hashed
from trainer.data.text.remote import shown_url
from trainer.data.tokens.manifest import Shard
from trainer.data.tokens.shard_index import build_index, hash_index, index_path, write_index
from trainer.errors import InputError

COMPANIONS = (".index", ".sha256")  # files beside a shard of the cache, which go with it


def folder_name(fingerprint: str) -> str:
    """A dataset's folder in the cache."""
    return fingerprint[:32]


@dataclass(frozen=True)
class CachedShard:
    """A shard of a dataset by its fingerprint, and where it comes from."""

    fingerprint: str
    number: int
    shard: Shard = field(compare=False)
    dtype: str = field(compare=False)
    address: str = field(compare=False)

    @property
    def file(self) -> str:
        """Its name in the dataset's folder of the cache; it ends in .tar."""
        return self.shard.file

    @property
    def name(self) -> str:
        """Of its file in the cache, below the cache's folder."""
        return f"{folder_name(self.fingerprint)}/{self.file}"

    @property
    def mend(self) -> str:
        """What to do where it can't be had."""
        return "put it there as prepare wrote it and run the same command again"

    def fetch(self, file: io.FileIO) -> None:
        """Fetches it into `file`, from where that ends. Unreachable, or BadFile if something else is there."""
        fetch_hashed(self.address, file, size=self.shard.bytes, sha256=self.shard.sha256)

    def admit(self, partial: Path, path: Path) -> None:
        """Checks what has come, in `partial`, and writes what readers need beside `path`. BadFile if it isn't it."""
        try:
            index = build_index(partial, self.dtype)
        except InputError as error:
            raise BadFile(f"{shown_url(self.address)}: it is no token shard ({error})") from error
        if self.shard.index_sha256 is not None and hash_index(index) != self.shard.index_sha256:
            raise BadFile(f"{shown_url(self.address)}: the manifest's index isn't the shard's")
        write_index(path, index)

    def is_whole(self, path: Path, file: io.BufferedReader) -> bool:
        """Whether what an earlier start left at `path`, open as `file`, is all of it."""
        return hashlib.file_digest(file, "sha256").hexdigest() == self.shard.sha256 and index_path(path).is_file()

"""How data that lie elsewhere are fetched: the settings, and the folder of the cache."""

from __future__ import annotations

import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from trainer.config import Data
from trainer.data.text.remote import is_remote
from trainer.errors import ConfigError
from trainer.machine.cache_folder import cache_folder

STOP, RETRY, SKIP = "stop", "retry", "skip"


@dataclass(frozen=True)
class Fetching:
    """data.cache, data.cache_bytes, data.on_bad_shard and data.shard_patience_s."""

    cache: str | None = None
    cache_bytes: int = 64 * 2**30
    on_bad_shard: str = STOP
    patience_s: float = 300.0

    @staticmethod
    def of(data: Data) -> Fetching:
        """As a configuration has them."""
        return Fetching(data.cache, data.cache_bytes, data.on_bad_shard, data.shard_patience_s)

    def fetches(self, path: str) -> bool:
        """Whether the shards at `path` are fetched into the cache, rather than read where they are."""
        return is_remote(path) or self.cache is not None

    def open_folder(self) -> Path:
        """The cache's folder, this user's own. ConfigError where there can't be one that others can't enter."""
        if self.cache is None:
            folder = cache_folder(os.environ, "shards")
            folder.chmod(0o700)
            return folder
        parent = Path(self.cache).expanduser().absolute()
        folder = parent / f"user-{os.getuid()}"
        try:
            _make_shared(parent)
            folder.mkdir(mode=0o700, exist_ok=True)
            status = folder.lstat()
        except OSError as error:
            raise ConfigError(
                f"data.cache={self.cache}: {folder} can't be made ({error.strerror}); give a folder that you can "
                "write, or chmod 1777 one that several users share."
            ) from error
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise ConfigError(
                f"data.cache={self.cache}: {folder} isn't a folder that you alone can enter (mode 0700): others could "
                "put other data there; remove it, or give another folder."
            )
        return folder


def _make_shared(folder: Path) -> None:
    """Makes a folder in which every user may have one of his own, as in /tmp."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fresh.chmod(0o1777)  # whatever the umask
        fresh.rename(folder)  # and never without: another user may come at any moment
    except OSError:
        fresh.rmdir()
        if not folder.is_dir():  # another rank was quicker
            raise

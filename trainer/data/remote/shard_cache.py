"""The folder of fetched shards, shared by all processes of a user on a node, and bounded.

    FINGERPRINT/shard-000000.tar                 whole, with the hash that the manifest states
    FINGERPRINT/shard-000000.index               made from it
    FINGERPRINT/shard-000000.source.tar          of others: where its index was read from, with its .sha256 beside it
    FINGERPRINT/shard-000000.tar.BYTES.partial   what has come of one that will have so many bytes
    FINGERPRINT/shard-000000.tar.lock            held by who fetches or checks it
    FINGERPRINT/manifest.json, tokenizer/        (mirror.py)
    lock                                         held by who makes room

Whoever reads a shard holds its file by a shared lock, so that nobody else removes it. All locks are the kernel's: those
of a killed process are free, and what it had fetched is there.
"""

from __future__ import annotations

import fcntl
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from trainer.data.remote.cached_shard import COMPANIONS, CachedShard
from trainer.data.remote.file_lock import file_lock, is_at, open_alone, try_lock
from trainer.data.remote.origin import BadFile
from trainer.machine.durable import sync

PARTIAL, LOCK = ".partial", ".lock"
_IMPORTED_NS = time.time_ns()

# When a shard's content is needed next, as a position of the run: 0 of what is needed now, infinity of what isn't
# needed as far as is known, None of what this process knows nothing about
NextUse = Callable[[str, str], float | None]


class NoRoom(Exception):
    """All that the cache holds is needed before this shard, or held by others."""


@dataclass(frozen=True)
class _Kept:
    """A file of the cache that may go: its size or what is reserved for it, and when it was last used."""

    path: Path
    bytes: int
    used: float


def started_ns() -> int:
    """When this process started. What any other has checked since is fresh enough for it: ranks start together."""
    return _started_ns(os.getpid())


@cache
def _started_ns(process: int) -> int:
    try:
        ticks = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])  # since the boot
    except (OSError, ValueError, IndexError):
        return _IMPORTED_NS
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time_ns() - int(age_s * 1e9)


class ShardCache:
    """The cache in `folder`, of at most `most_bytes`. Threads may share it."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder = folder
        self.most_bytes = most_bytes
        self._held: dict[CachedShard, int] = {}  # descriptors with a shared lock
        self._mutex = threading.Lock()

    # ------------------------------------------------------------------------------------------------------ reading

    def hold(self, shard: CachedShard) -> bool:
        """Keeps a shard that is there and checked from being removed, till `let_go`; False if there is none."""
        with self._mutex:
            if shard in self._held:
                return True
            path = self.folder / shard.name
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                return False
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            status = os.fstat(descriptor)
            if not is_at(descriptor, path) or status.st_mtime_ns < started_ns():
                os.close(descriptor)
                return False
            os.utime(descriptor, ns=(time.time_ns(), status.st_mtime_ns))
            self._held[shard] = descriptor
            return True

    def held(self) -> list[CachedShard]:
        """What this process holds."""
        with self._mutex:
            return list(self._held)

    def let_go(self, shard: CachedShard) -> None:
        """The shard may be removed, as far as this process goes."""
        with self._mutex:
            descriptor = self._held.pop(shard, None)
        if descriptor is not None:
            os.close(descriptor)

    def is_ready(self, shard: CachedShard) -> bool:
        """Whether `hold` would succeed."""
        if shard in self._held:
            return True
        try:
            return os.stat(self.folder / shard.name, follow_symlinks=False).st_mtime_ns >= started_ns()
        except FileNotFoundError:
            return False

    # ----------------------------------------------------------------------------------------------------- fetching

    def bring(self, shard: CachedShard, next_use: NextUse, let_go: Callable[[str], None]) -> bool:
        """Makes a shard ready: checks what is there, or fetches it. False while another process does.

        Unreachable if it can't be fetched, BadFile if it isn't what the manifest says, NoRoom, OSError of the disk.
        `let_go` is called with the name of a shard that is to be removed, if this process holds it.
        """
        path = self.folder / shard.name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor = try_lock(path.with_name(path.name + LOCK))
        if descriptor is None:
            return False
        try:
            if not self.is_ready(shard) and not self._check_again(shard, path):
                self._fetch(shard, path, next_use, let_go)
        finally:
            os.close(descriptor)
        return True

    def _check_again(self, shard: CachedShard, path: Path) -> bool:
        """Whether a shard that an earlier start left is whole; it goes if it isn't."""
        try:
            with open(path, "rb") as file:
                if os.fstat(file.fileno()).st_size == shard.shard.bytes and shard.is_whole(path, file):
                    mark_checked(file.fileno())
                    return True
        except FileNotFoundError:
            return False
        _remove(path)
        return False

    def _fetch(self, shard: CachedShard, path: Path, next_use: NextUse, let_go: Callable[[str], None]) -> None:
        partial = path.with_name(f"{path.name}.{shard.shard.bytes}{PARTIAL}")
        with open(self._make_room(shard, partial, next_use, let_go), "r+b", buffering=0) as file:
            shard.fetch(file)
            try:
                shard.admit(partial, path)
            except BadFile:
                partial.unlink()
                raise
            mark_checked(file.fileno())
            os.replace(partial, path)
        sync(path.parent)

    # --------------------------------------------------------------------------------------------------------- room

    def _make_room(self, shard: CachedShard, partial: Path, next_use: NextUse, let_go: Callable[[str], None]) -> int:
        """Reserves a shard's bytes, and removes what is needed later than it, last first (Belady, 1966).

        Returns a descriptor of `partial`, locked before anybody else makes room, so that it is left alone.
        """
        own = next_use(*_identify(partial))
        with file_lock(self.folder / "lock"):
            used, kept = self._survey()
            needed = 0 if partial.exists() else shard.shard.bytes
            order = sorted(kept, key=lambda each: _rank(each, next_use), reverse=True)
            for each in order:
                if used + needed <= self.most_bytes:
                    break
                if each.path == partial or not _goes_before(each, own, next_use):
                    continue
                let_go(each.path.relative_to(self.folder).as_posix())
                if _remove_unless_held(each.path):
                    used -= each.bytes
            if used + needed > self.most_bytes:
                raise NoRoom
            return open_alone(partial)

    def _survey(self) -> tuple[int, list[_Kept]]:
        """Bytes that are taken or reserved, and the files that may go."""
        total, kept = 0, []
        for path, status in _files_below(self.folder):
            size = status.st_size
            if path.name.endswith(PARTIAL):
                size = max(size, _reserved(path.name))
            total += size
            if path.suffix in (".tar", PARTIAL):
                kept.append(_Kept(path, size, status.st_atime))
        return total, kept


def _files_below(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Regular files of a folder and its folders."""
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            try:
                yield path, path.stat(follow_symlinks=False)
            except FileNotFoundError:  # another process was done with it
                continue


def _reserved(name: str) -> int:
    """The BYTES of a partial's name."""
    digits = name.removesuffix(PARTIAL).rpartition(".")[2]
    return int(digits) if digits.isdigit() else 0


def _identify(path: Path) -> tuple[str, str]:
    """Folder and file of the shard that a path is, or will be."""
    name = path.name
    if name.endswith(PARTIAL):
        name = name.removesuffix(PARTIAL).rpartition(".")[0]
    return path.parent.name, name


def _rank(kept: _Kept, next_use: NextUse) -> tuple[int, float, float]:
    """What goes first has the highest: what nobody here knows, then what isn't needed, then what is needed last."""
    use = next_use(*_identify(kept.path))
    if use is None:
        return 2, 0.0, -kept.used
    return (1, 0.0, -kept.used) if math.isinf(use) else (0, use, -kept.used)


def _goes_before(kept: _Kept, own: float | None, next_use: NextUse) -> bool:
    use = next_use(*_identify(kept.path))
    return use is None or own is None or use > own


def _remove_unless_held(path: Path) -> bool:
    """Removes a shard, or what has come of one, that no process reads or fetches; whether it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(path)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    if path.suffix == ".tar":
        for companion in COMPANIONS:
            path.with_suffix(companion).unlink(missing_ok=True)


def mark_checked(descriptor: int) -> None:
    """Notes that a file is what it should be, as of now."""
    now = time.time_ns()
    os.utime(descriptor, ns=(now, now))

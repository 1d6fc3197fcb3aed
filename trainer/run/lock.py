"""The lock of a run directory: one run in it at a time, and a dead one doesn't hold it.

`RUN/lock` names its holder; touching the file every few seconds says that the holder lives. On the same machine a
holder whose process has ended loses it at once; on another one, when the file wasn't touched for run.lock_timeout_s.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import stat
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import psutil

from trainer.errors import BanyanError, ConfigError, InputError
from trainer.machine.durable import storage_errors, write_json

HEARTBEAT_S = 5.0
PATIENCE_S = 3.0  # a holder on this machine may have been killed a moment ago
POLL_S = 0.1
MOST_BYTES = 1 << 14  # of a lock: no run writes as many
CONTEST_S = 0.5  # after which two that took over the same lock from another machine see who was the last


@dataclass(frozen=True)
class Holder:
    """What the file says. `machine` is where `pid` has a meaning: a boot of a kernel, and a process namespace."""

    host: str
    machine: str
    pid: int
    since: str
    token: str

    @staticmethod
    def myself() -> Holder:
        """This process."""
        since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        return Holder(platform.node(), _machine(), os.getpid(), since, uuid.uuid4().hex)

    @property
    def is_local(self) -> bool:
        """Whether its process, if it lives, can be seen from here."""
        return self.machine == _machine()

    def has_ended(self) -> bool:
        """Whether a local holder's process is gone."""
        try:
            return psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


UNKNOWN = Holder("an unknown host", "", 0, "an unknown time", "")


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


class RunLock:
    """Holds the lock of a run directory from `take` to the end of the `with`; rank 0 has it."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._mine = Holder.myself()
        self._released = threading.Event()

    def take(self, run_dir: Path, timeout_s: float) -> None:
        """Takes the lock, if need be from a dead holder. ConfigError if a live one has it.

        It waits for `timeout_s` at most, whatever the lock says: a lock that isn't touched meanwhile is a dead one's.
        """
        path = run_dir / "lock"
        began = time.monotonic()
        seen: float | None = None
        while True:
            waited = time.monotonic() - began
            with storage_errors(path), _one_at_a_time(run_dir):
                found = look_at(path)
                if found is None or _is_gone(*found, run_dir, timeout_s, waited):
                    write_json(path, asdict(self._mine), sync_folder=False)  # nobody holds it when the power is back
                    foreign = found is not None and not found[0].is_local
                    break
            holder, touched = found
            if seen is None and not holder.is_local:
                print(
                    f"{run_dir}: locked from {holder.host}; looking whether that still lives (run.lock_timeout_s: "
                    f"{timeout_s:g} s at most)",
                    flush=True,
                )
            seen = touched if seen is None else seen
            if touched != seen or (holder.is_local and waited > PATIENCE_S):
                raise ConfigError(
                    f"{run_dir}: process {holder.pid} on {holder.host} has been running here since {holder.since}; "
                    f"wait for its end, stop it with a file {run_dir / 'stop'}, or begin another run with run.name."
                )
            time.sleep(POLL_S)
        if foreign:  # its file system may not lock across machines
            time.sleep(CONTEST_S)
            self._require_mine(path)
        self._path = path
        threading.Thread(target=self._beat, name="lock-heartbeat", daemon=True).start()

    def _require_mine(self, path: Path) -> None:
        found = look_at(path)
        if found is not None and found[0].token != self._mine.token:
            raise ConfigError(f"{path}: process {found[0].pid} on {found[0].host} took it; wait for its end.")

    def _beat(self) -> None:
        """Says that this process lives; ends it if another was given the lock, having waited long enough for it."""
        assert self._path is not None
        while not self._released.wait(HEARTBEAT_S):
            try:
                self._require_mine(self._path)
            except ConfigError as error:
                print(f"banyan: {error} This run was taken for dead and ends.", file=sys.stderr, flush=True)
                os._exit(1)
            except (InputError, OSError):  # of a network file system, perhaps for a moment
                continue
            with contextlib.suppress(OSError):
                os.utime(self._path)

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._released.set()
        if self._path is not None:
            with contextlib.suppress(OSError, BanyanError):
                self._require_mine(self._path)
                self._path.unlink()


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """The kernel's lock on the folder, where its file system has one: two that look at once don't both write.

    ConfigError if somebody keeps it: it takes a moment, and anybody who may read the folder can take it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not _flock(descriptor):
            if time.monotonic() > deadline:
                raise ConfigError(f"{folder}: another process keeps the folder itself locked (flock); end that one.")
            time.sleep(POLL_S / 10)
        yield
    finally:
        os.close(descriptor)


def _flock(descriptor: int) -> bool:
    """Whether there is nothing to wait for: it is locked now, or its file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def look_at(path: Path) -> tuple[Holder, float] | None:
    """Who holds the lock, and when that was last touched, by the file system's clock; None if nobody does.

    InputError for what no run has made: a folder, a link, a pipe, a file that can't be read.
    """
    try:  # opening makes a network file system look again
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: the run's lock can't be read ({error.strerror}); remove it.") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} isn't a file: no run has made it; remove it.")
        return _holder_in(os.read(descriptor, MOST_BYTES)), status.st_mtime
    finally:
        os.close(descriptor)


def _holder_in(content: bytes) -> Holder:
    """Whom a lock's content names; an unknown host where it names nobody that there can be."""
    try:
        holder = Holder(**json.loads(content))
    except (ValueError, TypeError, RecursionError):
        return UNKNOWN
    texts = (holder.host, holder.machine, holder.since, holder.token)
    if any(type(text) is not str or not text.isprintable() for text in texts) or type(holder.pid) is not int:
        return UNKNOWN
    return holder if 0 < holder.pid < 1 << 31 else UNKNOWN


def _is_gone(holder: Holder, touched: float, run_dir: Path, timeout_s: float, waited: float) -> bool:
    if holder.is_local and holder.has_ended():
        return True
    if waited > timeout_s:  # touched again it would be known to live; its time may be one to come
        return True
    os.utime(run_dir)  # its new time is the file system's now, whatever the clocks of two machines say
    return run_dir.stat().st_mtime - touched > timeout_s

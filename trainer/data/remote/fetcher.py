"""Fetches shards into the cache ahead of use, by threads of every rank: the first that comes fetches for the node."""

from __future__ import annotations

import errno
import math
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from trainer.data.remote.cached_shard import CachedShard
from trainer.data.remote.fetching import RETRY, SKIP, Fetching
from trainer.data.remote.lookahead import Lookahead
from trainer.data.remote.origin import BadFile
from trainer.data.remote.shard_cache import NoRoom, ShardCache
from trainer.data.text.remote import MEND, Unreachable, shown_url, with_jitter
from trainer.errors import BanyanError, InputError, StorageError
from trainer.machine.credentials import masked
from trainer.machine.durable import REFUSALS

THREADS = 4  # of a rank, each with a connection of its own
TRIES = 3  # of a shard that is damaged or missing, before it is bad
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 15.0  # before another try, about; twice as long each time
POLL_S = 0.05  # between looks at what another process fetches, where that is waited for
IDLE_S = 0.25  # the same where it isn't
LOOKED_AT_S = 2.0  # between looks at whether what is there still is
CROWDED_S = 0.5  # after which who waits lets go of what it needs later: others may need the room
SAID_EVERY_S = 30.0
HELD_SHARE = 4  # a run holds this part of the cache ahead of use, so that others on the node have room as well


class BadShard(InputError):
    """A shard that can't be had."""


@dataclass
class _Failure:
    """What went wrong with a shard, how often, and whether another try would find the same."""

    line: str
    lasting: bool
    storage: bool = False
    tries: int = 0


class CacheReader(Protocol):
    """Who reads shards of the cache."""

    def forget(self, shard: CachedShard) -> None:
        """Closes a shard, which may be removed."""


class Fetcher:
    """The shards of a node's cache, and the threads of this process that fetch them."""

    def __init__(self, fetching: Fetching, say: Callable[[str], None]) -> None:
        self.cache = ShardCache(fetching.open_folder(), fetching.cache_bytes)
        self._fetching = fetching
        self._say = say
        self._changed = threading.Condition()
        self._urgent: dict[CachedShard, int] = {}  # how many threads wait for it, or open it
        self._failures: dict[CachedShard, _Failure] = {}
        self._not_before: dict[CachedShard, float] = {}
        self._in_work: set[CachedShard] = set()
        self._given_up: set[CachedShard] = set()
        self._threads: list[threading.Thread] = []
        self._lookahead: Lookahead | None = None
        self._expected: list[CachedShard] = []
        self._readers: weakref.WeakSet[CacheReader] = weakref.WeakSet()

    # ------------------------------------------------------------------------------------------------- for readers

    def look_ahead(self, lookahead: Lookahead) -> None:
        """From now on what this knows of is fetched ahead of use."""
        with self._changed:
            self._lookahead = lookahead
        self._start()

    def add_reader(self, reader: CacheReader) -> None:
        """Tells a reader, too, of each shard that is let go of."""
        self._readers.add(reader)

    def expect(self, shards: list[CachedShard]) -> None:
        """Shards that are likely next, of sets that the run's order doesn't have; of those that it has all is known."""
        lookahead = self._lookahead
        known = lookahead is not None and any(lookahead.next_use(*each.name.split("/")) is not None for each in shards)
        with self._changed:
            self._expected = [] if known else shards
            self._changed.notify_all()

    @contextmanager
    def acquired(self, shard: CachedShard) -> Iterator[None]:
        """Begins once a shard is there, whole, and held; it isn't let go of before the end of the block.

        BadShard or StorageError, a line, where it can't be had; InputError where the cache is too small for it alone.
        """
        with self._changed:
            self._urgent[shard] = self._urgent.get(shard, 0) + 1
        try:
            if not self.cache.hold(shard):
                self._wait_for(shard)
            yield
        finally:
            with self._changed:
                self._urgent[shard] -= 1
                if not self._urgent[shard]:
                    del self._urgent[shard]

    def _wait_for(self, shard: CachedShard) -> None:
        if shard in self._given_up:
            raise BadShard(self._line_of(shard, 0.0))
        if shard.shard.bytes > self.cache.most_bytes:
            raise InputError(
                f"data.cache_bytes={self.cache.most_bytes}: {shown_url(shard.address)} alone has {shard.shard.bytes:,} "
                "bytes; raise it."
            )
        began = said = time.monotonic()
        with self._changed:
            self._not_before.pop(shard, None)
            self._changed.notify_all()
        self._start()
        while not self.cache.hold(shard):
            now = time.monotonic()
            self._judge(shard, now - began)
            if now - said >= SAID_EVERY_S:
                said = now
                self._say(f"waiting for {self._line_of(shard, now - began)}")
            if now - began >= CROWDED_S:
                self._let_go_of_one()
            with self._changed:
                self._changed.wait(POLL_S)

    def _judge(self, shard: CachedShard, waited_s: float) -> None:
        """Raises what ends the wait for a shard, if something does."""
        failure = self._failures.get(shard)
        if failure is not None and failure.storage:
            raise StorageError(failure.line)
        settled = failure is not None and failure.lasting and failure.tries >= TRIES
        if self._fetching.on_bad_shard == RETRY or not (settled or waited_s >= self._fetching.patience_s):
            return
        if self._fetching.on_bad_shard == SKIP:
            self._given_up.add(shard)
        raise BadShard(self._line_of(shard, waited_s))

    def _line_of(self, shard: CachedShard, waited_s: float) -> str:
        """What is wrong with a shard, and the mend."""
        failure, named = self._failures.get(shard), shown_url(shard.address)
        why = "" if failure is None else failure.line.removeprefix(f"{named}: ").rstrip(".")
        mend = f"{shard.mend}, or set data.on_bad_shard=retry to wait for it, or skip to go on without its rows"
        if failure is not None and failure.lasting:
            return f"{named}: {why}; tried {failure.tries} times; {mend}."
        return (
            f"{named}: not here after {waited_s:.0f} s (data.shard_patience_s={self._fetching.patience_s:g})"
            f"{': ' + why if why else ''}; {mend}."
        )

    def let_go(self, shard: CachedShard) -> None:
        """The shard may be removed, unless somebody is about to read it; its reader closes the file."""
        with self._changed:
            if shard in self._urgent:
                return
            for reader in list(self._readers):
                reader.forget(shard)
            self.cache.let_go(shard)

    def _let_go_of_one(self) -> None:
        """Of what is held, lets go of what is needed last."""
        with self._changed:
            held = [shard for shard in self.cache.held() if shard not in self._urgent]
        if held and self._lookahead is not None:
            self.let_go(max(held, key=self._next_use))

    # ---------------------------------------------------------------------------------------------------- threads

    def _start(self) -> None:
        with self._changed:
            while len(self._threads) < THREADS:
                thread = threading.Thread(target=self._work, name=f"fetch-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _work(self) -> None:
        while threading.main_thread().is_alive():
            shard = self._choose()
            if shard is None:
                with self._changed:
                    self._changed.wait(IDLE_S)
                continue
            wait = IDLE_S
            try:
                wait = self._bring(shard)
            finally:
                with self._changed:
                    self._in_work.discard(shard)
                    self._not_before[shard] = time.monotonic() + wait
                    self._changed.notify_all()

    def _choose(self) -> CachedShard | None:
        """The shard that is needed first of those that aren't there, or in work, or wait for another try."""
        lookahead = self._lookahead
        upcoming = [shard for _, shard in lookahead.upcoming()] if lookahead is not None else []
        self._let_go_of_past()
        now = time.monotonic()
        with self._changed:
            for shard in [*self._urgent, *self._expected, *upcoming]:
                if shard in self._in_work or self._not_before.get(shard, 0.0) > now:
                    continue
                if self.cache.is_ready(shard):
                    self._not_before[shard] = now + LOOKED_AT_S
                    continue
                self._in_work.add(shard)
                return shard
        return None

    def _bring(self, shard: CachedShard) -> float:
        """Fetches a shard; seconds until it should be looked at again."""
        try:
            brought = self.cache.bring(shard, self._use_of(shard), self._let_go_by_name)
        except NoRoom:
            return POLL_S if shard in self._urgent else IDLE_S
        except StorageError as error:  # of what is written beside a shard
            cause = error.__cause__
            return self._failed(shard, self._of_disk(cause if isinstance(cause, OSError) else OSError(str(error))))
        except BanyanError as error:
            lasting = isinstance(error, BadFile) or (isinstance(error, Unreachable) and error.lasting)
            line = str(error).rstrip(".").removesuffix(f"; {MEND}")
            return self._failed(shard, _Failure(line, lasting))
        except OSError as error:
            return self._failed(shard, self._of_disk(error))
        except Exception as error:  # of a store's library: never the end of the thread
            return self._failed(shard, _Failure(masked(f"{type(error).__name__}: {error}"[:300]), lasting=False))
        if not brought:
            return POLL_S if shard in self._urgent else IDLE_S
        if self._failures.pop(shard, None) is not None:
            self._say(f"{shown_url(shard.address)}: here now")
        self._given_up.discard(shard)
        if shard in self._urgent or self._is_near(shard):
            self.cache.hold(shard)
        return IDLE_S

    def _failed(self, shard: CachedShard, failure: _Failure) -> float:
        """Notes a failure, and says the first of a kind; seconds to wait.

        What the disk refuses ends who waits, in a line of its own: then nothing else is said.
        """
        before = self._failures.get(shard)
        failure.tries = 1 + (before.tries if before is not None and before.lasting == failure.lasting else 0)
        self._failures[shard] = failure
        of_disk = any(each.storage for each in list(self._failures.values()))
        if not of_disk and (before is None or before.line != failure.line):
            self._say(f"{failure.line}; trying again")
        return with_jitter(min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(10, failure.tries - 1)))

    def _of_disk(self, error: OSError) -> _Failure:
        mend = REFUSALS.get(error.errno or 0, error.strerror or str(error))
        other = ", or give data.cache=DIR on another disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        line = f"{self.cache.folder}: {mend}{other} (data.cache_bytes={self._fetching.cache_bytes})"
        return _Failure(f"{line}, then run the same command again; it continues.", lasting=False, storage=True)

    # ------------------------------------------------------------------------------------------------------- order

    def _next_use(self, shard: CachedShard) -> float:
        """When a shard is needed: -1 if it is waited for, 0 if it isn't of the run's order, which others are."""
        if shard in self._urgent:
            return -1.0
        lookahead = self._lookahead
        use = None if lookahead is None else lookahead.next_use(*shard.name.split("/"))
        return 0.0 if use is None else use

    def _use_of(self, wanted: CachedShard) -> Callable[[str, str], float | None]:
        """When the shards of a cache are needed, seen from one that is wanted now."""
        held = {shard.name: shard for shard in [*self.cache.held(), *self._urgent, wanted]}

        def next_use(folder: str, file: str) -> float | None:
            known = held.get(f"{folder}/{file}")
            if known is not None:
                return self._next_use(known)
            return None if self._lookahead is None else self._lookahead.next_use(folder, file)

        return next_use

    def _let_go_by_name(self, name: str) -> None:
        for shard in self.cache.held():
            if shard.name == name:
                self.let_go(shard)

    def _is_near(self, shard: CachedShard) -> bool:
        """Whether a shard is among those that are held ahead of use."""
        lookahead = self._lookahead
        return lookahead is not None and shard in self._near([each for _, each in lookahead.upcoming()])

    def _near(self, upcoming: list[CachedShard]) -> set[CachedShard]:
        near, size = set[CachedShard](), 0
        for shard in upcoming:
            size += shard.shard.bytes
            if size > self._fetching.cache_bytes // HELD_SHARE:
                break
            near.add(shard)
        return near

    def _let_go_of_past(self) -> None:
        """Lets go of what the order doesn't need as far as is known; sets that aren't in it stay."""
        for shard in self.cache.held():
            if math.isinf(self._next_use(shard)):
                self.let_go(shard)


@cache
def fetcher_of(fetching: Fetching) -> Fetcher:
    """This process's fetcher for these settings; what it has to say goes to stderr."""
    return Fetcher(fetching, lambda line: print(f"banyan: {line}", file=sys.stderr, flush=True))

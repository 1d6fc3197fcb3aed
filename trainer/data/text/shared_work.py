"""Work items shared out among processes that see one folder and nothing else of each other: a SLURM job array.

An item is claimed by a file, which its owner touches while it works; one that isn't touched any more belongs to
whoever finds it. Claims save work and decide nothing: an item that two do at once is written twice, the same.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from trainer.data.text.workers import Item, Map, Result, Work
from trainer.machine.durable import make_folder

BEAT_S = 10.0
STALE_S = 60.0  # since the last touch, by the clock of the file system
POLL_S = (0.2, 5.0)  # the first wait for others, and the longest


@dataclass(frozen=True)
class WorkShare:
    """One of `count` processes that share the work; `owner` is its name, the same after a restart."""

    number: int
    count: int
    owner: str


class Claims:
    """Which items this process has claimed; they are touched until they are let go of."""

    def __init__(self, folder: Path, owner: str) -> None:
        make_folder(folder)
        self._folder = folder
        self._owner = owner.encode()
        self._held: set[Path] = set()
        self._lock = threading.Lock()

    def take(self, name: str) -> bool:
        """Whether the item is ours now: nobody had it, or whoever had it gives no sign any more."""
        path = self._folder / f"{name}.claim"
        for _ in range(2):
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                if not self._is_free(path):
                    return False
                path.unlink(missing_ok=True)
                continue
            with os.fdopen(descriptor, "wb") as file:
                file.write(self._owner)
            with self._lock:
                self._held.add(path)
            return True
        return False

    def release(self, name: str) -> None:
        """Lets go of an item."""
        path = self._folder / f"{name}.claim"
        with self._lock:
            self._held.discard(path)
        path.unlink(missing_ok=True)

    def touch(self) -> None:
        """Gives a sign for every item that is held."""
        with self._lock:
            held = list(self._held)
        for path in held:
            with suppress(OSError):
                os.utime(path)

    def release_all(self) -> None:
        """Lets go of everything."""
        for path in list(self._held):
            self.release(path.stem)

    def _is_free(self, path: Path) -> bool:
        """Whether a claim is our own, from before a restart, or stale."""
        try:
            if path.is_file() and path.read_bytes()[:1000] == self._owner:
                return True
            return self._now() - path.stat().st_mtime > STALE_S
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def _now(self) -> float:
        """The time as the file system tells it, whose clock may be another than ours."""
        clock = self._folder / f"clock-{os.getpid()}-{threading.get_ident()}"
        clock.touch()
        now = clock.stat().st_mtime
        clock.unlink(missing_ok=True)
        return now


@contextmanager
def share_work(folder: Path, share: WorkShare) -> Iterator[Callable[[Map], Map]]:
    """Makes of a map one that does this process' share of the items, and what of the others' shares nobody does.

    `folder` is where the claims are.
    """
    claims = Claims(folder, share.owner)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_S):
            claims.touch()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()

    def shared(own_map: Map) -> Map:
        def map_items(work: Work[Item, Result], items: Iterable[Item]) -> Iterator[Result]:
            return _share(work, list(items), own_map, claims, share)

        return map_items

    try:
        yield shared
    finally:
        ended.set()
        thread.join()
        with suppress(OSError):
            claims.release_all()


@dataclass(frozen=True)
class _Forgiving(Work[Item, tuple[Item, Result]]):
    """Does an item; a failure doesn't count if another has done it meanwhile, and removed what it was made of."""

    work: Work[Item, Result]

    def note(self, item: Item) -> Path:
        return self.work.note(item)

    def __call__(self, item: Item) -> tuple[Item, Result]:
        try:
            return item, self.work(item)
        except Exception:
            if not self.work.is_done(item):
                raise
        return item, self.work(item)


def _share(
    work: Work[Item, Result], items: Sequence[Item], own_map: Map, claims: Claims, share: WorkShare
) -> Iterator[Result]:
    """Results in order. The first items that are looked at are this process' share; then come those after it."""
    first = len(items) * share.number // share.count if share.count else 0
    order = [*range(first, len(items)), *range(first)]
    done = bytearray(len(items))
    given = 0
    wait = POLL_S[0]

    def unclaimed() -> Iterator[Item]:
        for number in order:
            if not done[number] and not is_done(number) and claims.take(work.note(items[number]).name):
                yield items[number]

    def is_done(number: int) -> bool:
        done[number] = done[number] or work.is_done(items[number])
        return bool(done[number])

    while given < len(items):
        worked = False
        for item, _ in own_map(_Forgiving(work), unclaimed()):
            claims.release(work.note(item).name)
            worked = True
            while given < len(items) and is_done(given):
                yield work(items[given])
                given += 1
        while given < len(items) and is_done(given):
            yield work(items[given])
            given += 1
        wait = POLL_S[0] if worked else min(2 * wait, POLL_S[1])
        if given < len(items):
            time.sleep(wait)

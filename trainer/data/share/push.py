"""A set on this disk → a store: what isn't there is sent, set.json comes last, and who pushes the same doesn't mind.

Nothing is locked: an object is whole or not there, and what two who push at once would both write is the same, but for
manifests of two preparations of the same tokens. So whoever wrote last looks whether all small files are of one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial

from trainer.data.share.describe_set import LocalSet
from trainer.data.share.set_store import SetStore
from trainer.data.share.shared_set import (
    FILE,
    MOST_BYTES,
    NOT_STATED,
    PUSHING,
    SetFile,
    SharedSet,
    read_shared_set,
)
from trainer.data.share.transfers import Copying, ask_all, copy_all
from trainer.data.text.progress import bytes_in_words
from trainer.data.text.remote import shown_url
from trainer.errors import InputError

SETTLING_S = 0.5  # about, before another look at what two have written
TRIES = 6
Say = Callable[[str, str], None]


def push_set(local: LocalSet, store: SetStore, workers: int, say: Say) -> str:
    """Makes the set whole in the store; its address. InputError where another set, or other licences, are there."""
    described, name = local.described, local.described.fingerprint
    place = f"{shown_url(store.address)}/{name}"
    there = read_from(store, name, FILE)
    if (begun := there or read_from(store, name, PUSHING)) is not None:
        _check_same(described, begun, place)
    if there is not None and all(ask_all([partial(store.holds, name, file) for file in there.files], workers)):
        say(
            "push",
            f"{place}: there already, whole: {len(there.files):,} files, {bytes_in_words(there.total_bytes)}",
        )
        return f"{store.address}/{name}"
    if there is None:
        store.write(f"{name}/{PUSHING}", described.to_json())
    _send(local, store, described.others, workers, say)
    _commit(local, store, workers, say)
    store.remove(f"{name}/{PUSHING}")
    say("push", f"{place}: whole, {len(described.files):,} files, {bytes_in_words(described.total_bytes)}")
    return f"{store.address}/{name}"


def read_from(store: SetStore, name: str, file: str) -> SharedSet | None:
    """What set.json or pushing.json of a folder in the store says; None if it isn't there."""
    content = store.read(f"{name}/{file}", MOST_BYTES)
    return None if content is None else read_shared_set(content, f"{shown_url(store.address)}/{name}/{file}")


def _check_same(described: SharedSet, there: SharedSet, place: str) -> None:
    if there.fingerprints != described.fingerprints:
        raise InputError(
            f"{place}: a set with the same {described.name} but other parts is there ("
            f"{', '.join(sorted(there.fingerprints))}); push to another data.store."
        )
    if described.shards != there.shards:
        raise InputError(
            f"{place}: the same tokens are there in other files (encrypted, or with another key); push to another "
            "data.store, or remove that folder."
        )
    own, other = _licences(described), _licences(there)
    if own != other:
        raise InputError(
            f"{place}: the same data are there with other licences ({'; '.join(other)}; here {'; '.join(own)}); settle "
            "which are right, then remove that folder, or push to another data.store."
        )


def _licences(described: SharedSet) -> list[str]:
    return sorted({each.licence or NOT_STATED for each in described.licences})


def _send(local: LocalSet, store: SetStore, files: tuple[SetFile, ...], workers: int, say: Say) -> None:
    """Sends what isn't there."""
    name = local.described.fingerprint
    here = ask_all([partial(store.holds, name, file) for file in files], workers)
    missing = [file for file, is_there in zip(files, here, strict=True) if not is_there]
    if len(missing) < len(files):
        sizes = sum(file.bytes for file in files) - sum(file.bytes for file in missing)
        say("continue", f"{len(files) - len(missing):,} files, {bytes_in_words(sizes)}, are there and not sent again")
    copy_all("push", [Copying(file.bytes, partial(_put, local, store, file)) for file in missing], workers)


def _put(local: LocalSet, store: SetStore, file: SetFile, advance: Callable[[int], None]) -> None:
    store.put(local.described.fingerprint, file, local.source_of(file), advance)


def _commit(local: LocalSet, store: SetStore, workers: int, say: Say) -> None:
    """Writes the manifests, then set.json, and looks that both, and all else that is small, are of one preparation.

    Whoever writes last looks after that, and writes nothing more once it is so.
    """
    described, name = local.described, local.described.fingerprint
    for attempt in range(TRIES):
        there = read_from(store, name, FILE)
        if there is not None and all(ask_all([partial(store.holds, name, file) for file in there.small], workers)):
            _check_same(described, there, f"{shown_url(store.address)}/{name}")
            return
        if attempt:
            time.sleep(random.uniform(0.5, 1.5) * SETTLING_S * 2**attempt)
            _send(local, store, described.others, workers, say)
        for file in described.manifests:
            if not store.holds(name, file):
                store.put(name, file, local.source_of(file), _count_nothing)
        store.write(f"{name}/{FILE}", described.to_json())
    raise InputError(
        f"{shown_url(store.address)}/{name}: others push the same data from another preparation, over and over; run "
        "the same command again when they are done."
    )


def _count_nothing(count: int) -> None:
    pass

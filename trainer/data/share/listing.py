"""The sets in a store, and the outputs of prepare in a folder of them: what each is, and whether it is whole."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from trainer.data.share.describe_set import describe_set
from trainer.data.share.push import read_from
from trainer.data.share.set_store import FolderStore, SetStore
from trainer.data.share.shared_set import FILE, NOT_STATED, PUSHING, SET_NAME, SharedSet, as_listed
from trainer.data.share.transfers import WORKERS
from trainer.data.text.plan import FILE as PLAN
from trainer.data.text.plan import PARTIAL as PREPARING
from trainer.data.text.progress import bytes_in_words
from trainer.data.text.remote import Unreachable
from trainer.data.tokens.manifest import FILE as MANIFEST
from trainer.data.tokens.manifest import SPLITS
from trainer.errors import InputError

HEAD = ("name", "fingerprint", "documents", "tokens", "languages", "tokenizer", "licences", "size", "when", "")
SHORT = 12  # characters of a fingerprint
WHOLE = "whole"


@dataclass(frozen=True)
class ListedSet:
    """A folder of a store. `described` is None where nothing in it says what it is; `state` is "whole", or says what is
    amiss."""

    folder: str
    described: SharedSet | None
    state: str

    @property
    def is_whole(self) -> bool:
        """Whether all of it is there."""
        return self.state == WHOLE


def list_sets(store: SetStore) -> list[ListedSet]:
    """What is in a store, by name and time. Unreachable where it can't be listed."""
    names = store.names()
    with ThreadPoolExecutor(WORKERS) as pool:
        found = [each for each in pool.map(partial(_look, store), names) if each is not None]
    return sorted(found, key=lambda each: (each.described.name, each.described.time) if each.described else ("", ""))


def _look(store: SetStore, name: str) -> ListedSet | None:
    if not SET_NAME.fullmatch(name):
        return _look_at_output(store.folder / name) if isinstance(store, FolderStore) else None
    try:
        described = read_from(store, name, FILE)
        if described is not None:
            return ListedSet(name, described, _state(described, store.sizes(name)))
        begun = read_from(store, name, PUSHING)
    except Unreachable:
        raise
    except InputError as error:
        return ListedSet(name, None, f"can't be read: {error}")
    if begun is None:
        return ListedSet(name, None, f"partial: neither {FILE} nor {PUSHING} is there")
    there = store.sizes(name) or {}
    come = sum(there.get(file.path) == file.bytes for file in begun.files)
    return ListedSet(name, begun, f"partial: {come:,} of {len(begun.files):,} files")


def _state(described: SharedSet, sizes: dict[str, int] | None) -> str:
    """Whether the files are there, as far as the store's listing shows it."""
    if sizes is None:
        return WHOLE
    wrong = [file.path for file in described.files if sizes.get(file.path) != file.bytes]
    return f"damaged: {len(wrong):,} files are missing or cut, as {wrong[0]}" if wrong else WHOLE


def _look_at_output(folder: Path) -> ListedSet | None:
    """An output of prepare, or a set that was pulled."""
    if not any((folder / split / MANIFEST).is_file() for split in ("", *SPLITS)):
        begun = (folder / PLAN).is_file() and (folder / PREPARING).is_dir()
        return ListedSet(folder.name, None, "partial: prepare has not ended") if begun else None
    try:
        described = describe_set(folder, hash_file=lambda path: "").described
    except InputError as error:
        return ListedSet(folder.name, None, f"damaged: {error}")
    return ListedSet(folder.name, described, WHOLE)


def sets_as_json(store: SetStore, found: list[ListedSet]) -> list[dict[str, Any]]:
    """A listing for programs."""
    return [
        {
            "address": f"{store.address}/{each.folder}",
            "whole": each.is_whole,
            "state": each.state,
            **(as_listed(each.described) if each.described else {"fingerprint": each.folder}),
        }
        for each in found
    ]


def set_table(found: list[ListedSet]) -> Iterator[str]:
    """A listing for people: a line for each set, below the names of its columns."""
    rows = [HEAD, *(_row(each) for each in found)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(HEAD) - 1)]
    for row in rows:
        cells = [
            f"{cell:>{width}}" if HEAD[place] in ("documents", "tokens", "size") else f"{cell:<{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        yield "  ".join([*cells, row[-1]]).rstrip()


def _row(each: ListedSet) -> tuple[str, ...]:
    described = each.described
    if described is None:
        return ("?", each.folder[:SHORT], *["?"] * 7, each.state)
    licences = sorted({source.licence or NOT_STATED for source in described.licences})
    return (
        described.name if SET_NAME.fullmatch(each.folder) else f"{described.name} ({each.folder})",
        described.fingerprint[:SHORT],
        f"{described.documents:,}",
        f"{described.tokens:,}",
        ", ".join(described.languages) or NOT_STATED,
        described.tokenizer,
        ", ".join(licences) or NOT_STATED,
        bytes_in_words(described.total_bytes),
        described.time[:16].replace("T", " "),
        each.state,
    )

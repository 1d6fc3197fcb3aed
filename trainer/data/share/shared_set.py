"""set.json: what a set in a store is, and the size and sha256 of each of its files. It comes last: then all are there.

    STORE/FINGERPRINT/train/shard-000000.tar …      as in the output of prepare
    STORE/FINGERPRINT/train/manifest.json           after the shards
    STORE/FINGERPRINT/LICENCES.md, DATA_CARD.md, card.html
    STORE/FINGERPRINT/set.json                      at the end; before that it is pushing.json

The fingerprint is the data set's own; of an output of prepare, that of its first part, train.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.data.tokens.manifest import FILE as MANIFEST
from trainer.errors import InputError
from trainer.machine.bare_name import bare_name
from trainer.machine.durable import json_bytes
from trainer.machine.json_file import Count, Malformed, Sha256, from_known, parse_json, shown

FILE, PUSHING = "set.json", "pushing.json"
LICENCES = "LICENCES.md"
FORMAT, VERSION = "banyan-shared-set", 1
MOST_BYTES = 2**28  # of set.json, which names every file
MOST_FILES = 2**20
MOST_DEPTH = 3  # train/tokenizer/tokenizer.json
PARTIAL = ".partial"  # what a file's name ends in before it is whole
NOT_STATED = "not stated"
SET_NAME = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class SetFile:
    """A file of a set, by its path below the set's folder."""

    path: str
    bytes: Count
    sha256: Sha256


@dataclass(frozen=True)
class SourceLicence:
    """An input of prepare, with the licence and the language that were stated of it."""

    source: str
    licence: str | None
    language: str | None
    files: Count


@dataclass(frozen=True)
class SharedSet:
    """A set as set.json describes it. `fingerprints` are by manifest; `time` and `banyan`, the version, are its
    preparation's."""

    name: str
    fingerprint: Sha256
    fingerprints: dict[str, Sha256]
    documents: Count
    tokens: Count
    text_bytes: Count
    languages: tuple[str, ...]
    tokenizer: str
    licences: tuple[SourceLicence, ...]
    files: tuple[SetFile, ...]
    time: str
    banyan: str

    @property
    def total_bytes(self) -> int:
        """Of all files."""
        return sum(file.bytes for file in self.files)

    @property
    def manifests(self) -> tuple[SetFile, ...]:
        """The files that make data sets of shards: last the first, which a run trains on."""
        return tuple(sorted((file for file in self.files if file.path in self.fingerprints), key=_late))

    @property
    def others(self) -> tuple[SetFile, ...]:
        """All files that come before the manifests."""
        return tuple(file for file in self.files if file.path not in self.fingerprints)

    @property
    def shards(self) -> frozenset[SetFile]:
        """The tars, which hold the tokens."""
        return frozenset(file for file in self.files if file.path.endswith(".tar"))

    @property
    def small(self) -> tuple[SetFile, ...]:
        """All files but the shards: what two preparations of the same tokens may have otherwise."""
        return tuple(file for file in self.files if not file.path.endswith(".tar"))

    def to_json(self) -> bytes:
        """The file; read_shared_set's inverse."""
        return json_bytes({"format": FORMAT, "version": VERSION, **asdict(self)})


def _late(file: SetFile) -> tuple[bool, str]:
    return file.path in (MANIFEST, f"train/{MANIFEST}"), file.path


def read_shared_set(content: bytes, source: str) -> SharedSet:
    """The set that set.json at `source` describes, which a stranger may have written. InputError says what is wrong."""
    try:
        value = parse_json(content)
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise Malformed(f'"format" isn\'t "{FORMAT}"')
        if value.get("version") != VERSION:
            raise Malformed(f"version {shown(value.get('version'))}, this Banyan reads {VERSION}")
        found = from_known(SharedSet, value)
        _check_files(found, source)
    except Malformed as error:
        raise InputError(f"{source}: not the description of a set ({error}); push the set again.") from error
    return found


def _check_files(found: SharedSet, source: str) -> None:
    """Refuses paths that lead out of the folder, or can't all be files there, and manifests that aren't among them."""
    paths = {file.path for file in found.files}
    if len(found.files) > MOST_FILES:
        raise Malformed(f"{len(found.files):,} files, where {MOST_FILES:,} are the most")
    if len({path.casefold() for path in paths}) != len(found.files):
        raise Malformed("two files have one name")
    for path in paths:
        check_path(path, source)
    folders = {parent for path in paths for parent in folders_above(path)}
    if both := sorted(folders & paths):
        raise Malformed(f"{shown(both[0])} is a file and a folder")
    if not found.fingerprints or not set(found.fingerprints) <= paths:
        raise Malformed("it names no manifest, or one that isn't among its files")
    for path, fingerprint in found.fingerprints.items():
        if path.rpartition("/")[2] != MANIFEST:
            raise Malformed(f"{shown(path)} is no {MANIFEST}")
        if path == min(found.fingerprints, key=_split_order) and fingerprint != found.fingerprint:
            raise Malformed("its fingerprint isn't that of its first manifest")


def _split_order(path: str) -> tuple[bool, str]:
    return path not in (MANIFEST, f"train/{MANIFEST}"), path


def check_path(path: str, source: str) -> None:
    """Refuses what isn't the path of a file a few folders below the set's, all of them visible."""
    parts = path.split("/")
    if len(parts) > MOST_DEPTH:
        raise Malformed(f"{shown(path)} lies deeper than {MOST_DEPTH} folders")
    for part in parts:
        bare_name(part, Path(source))
        if part.startswith("."):
            raise Malformed(f"{shown(path)} is hidden")
    if parts[-1] in (FILE, PUSHING) or parts[-1].endswith(PARTIAL):
        raise Malformed(f"{shown(path)} can't be a file of a set")


def folders_above(path: str) -> Iterable[str]:
    """The folders that a file's path goes through: a/b/c is in a and a/b."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def licence_lines(licences: Iterable[SourceLicence]) -> list[str]:
    """A line for each source: its licence, or that none is stated."""
    return [
        f"{each.source}: {each.licence or NOT_STATED}"
        + (f", in {each.language}" if each.language else "")
        + (f" ({each.files:,} files)" if each.files > 1 else "")
        for each in licences
    ] or [f"no source is named: {NOT_STATED}"]


def as_listed(found: SharedSet) -> dict[str, Any]:
    """What a listing for programs says of a set: all but its files."""
    value = asdict(found)
    del value["files"]
    return {**value, "bytes": found.total_bytes, "files": len(found.files)}

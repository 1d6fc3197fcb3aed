"""COMPLETE: the last file of a checkpoint, with the size and hashes of every other. Without it there is no checkpoint.

A file that several ranks wrote has the hash of each of their parts, so that nobody reads what another has written.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from trainer.errors import InputError
from trainer.machine.bare_name import bare_name
from trainer.machine.durable import json_bytes
from trainer.machine.json_file import (
    Count,
    Malformed,
    Xxh3,
    from_json,
    open_stored,
    parse_json,
    read_json,
    read_regular,
)
from trainer.machine.sealing.data_key import WrappedKey
from trainer.machine.sealing.keyring import KEYRING

COMPLETE = "COMPLETE"
ENCRYPTION = "encryption"  # field of it: the data keys of the files, wrapped by the user's
STATE = "state.json"
DATA = "rank-"  # what names of files with tensors begin with
CHUNK = 4 * 2**20  # bytes that are hashed at once


@dataclass(frozen=True)
class Hashed:
    """Bytes on end, and their xxh3-128."""

    bytes: Count
    xxh3_128: Xxh3


@dataclass(frozen=True)
class StoredFile:
    """Size and hash of a file; `parts`, in place of the hash, if it was written in parts that follow each other."""

    bytes: Count
    xxh3_128: Xxh3 | None = None
    parts: tuple[Hashed, ...] | None = None

    @property
    def hashed(self) -> tuple[Hashed, ...]:
        """What has a hash, from the first byte to the last."""
        return self.parts if self.xxh3_128 is None else (Hashed(self.bytes, self.xxh3_128),)  # type: ignore[return-value]

    @staticmethod
    def of_parts(parts: list[Hashed]) -> dict[str, Any]:
        """A file's entry in COMPLETE."""
        if len(parts) == 1:
            return vars(parts[0]).copy()
        return {"bytes": sum(part.bytes for part in parts), "parts": [vars(part).copy() for part in parts]}


@dataclass(frozen=True)
class Complete:
    """The content of COMPLETE."""

    files: dict[str, StoredFile]
    encryption: tuple[WrappedKey, ...] = ()


def describe(path: Path) -> dict[str, Any]:
    """A whole file's entry in COMPLETE."""
    size = path.stat().st_size
    return {"bytes": size, "xxh3_128": hash_range(path, 0, size)}


def hash_range(path: Path, start: int, size: int) -> str:
    """xxh3-128 of `size` bytes of a regular file from `start` on, or of fewer if it ends before."""
    digest = xxhash.xxh3_128()
    with open_stored(path) as file:
        file.seek(start)
        while size > 0 and (chunk := file.read(min(CHUNK, size))):
            digest.update(chunk)
            size -= len(chunk)
    return digest.hexdigest()


def read_complete(folder: Path) -> dict[str, StoredFile]:
    """Sizes and hashes of a whole checkpoint's files, by bare name. InputError if COMPLETE isn't there or damaged."""
    try:
        return _files_of(read_json(folder / COMPLETE), folder)
    except FileNotFoundError:
        raise InputError(f"{COMPLETE} is missing") from None
    except Malformed as error:
        raise InputError(f"{COMPLETE} is damaged ({error})") from None


def parse_complete(content: bytes, folder: Path) -> dict[str, StoredFile]:
    """As read_complete, of what was fetched for `folder`."""
    try:
        return _files_of(parse_json(content), folder)
    except Malformed as error:
        raise InputError(f"{COMPLETE} is damaged ({error})") from None


def _files_of(value: Any, folder: Path) -> dict[str, StoredFile]:
    complete = from_json(Complete, value)
    KEYRING.offer(complete.encryption, folder)
    files = complete.files
    for name, file in files.items():
        if bare_name(name, folder / COMPLETE) == COMPLETE:
            raise Malformed("it names itself")
        if (file.xxh3_128 is None) == (file.parts is None):
            raise Malformed(f"{name}: xxh3_128 or parts, and not both, are needed")
        if sum(part.bytes for part in file.hashed) != file.bytes:
            raise Malformed(f"{name}: its parts don't have {file.bytes:,} bytes")
    if STATE not in files:
        raise Malformed(f"it doesn't name {STATE}")
    return files


def checkpoint_sha256(folder: Path) -> str:
    """The sha256 of what COMPLETE says of a checkpoint's files, which stays when they get another user's key."""
    content = read_regular(folder / COMPLETE)
    value = parse_json(content)
    if isinstance(value, dict) and value.pop(ENCRYPTION, None) is not None:
        content = json_bytes(value)
    return hashlib.sha256(content).hexdigest()


def in_order(files: dict[str, StoredFile]) -> list[str]:
    """Names, tensors first: of what ranks share out by number, each has as its own what it wrote or is to read."""
    return sorted(files, key=lambda name: (not name.startswith(DATA), name))

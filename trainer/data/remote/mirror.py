"""A dataset's manifest and tokenizer, or index of tars, copied into the cache at a start: once for a node's ranks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import xxhash

from trainer.data.remote.cached_shard import folder_name
from trainer.data.remote.fetching import Fetching
from trainer.data.remote.file_lock import file_lock, open_alone
from trainer.data.remote.origin import fetch_hashed, read_small
from trainer.data.remote.shard_cache import PARTIAL, started_ns
from trainer.data.text.remote import Unreachable, is_remote, shown_url
from trainer.data.tokens import manifest as manifests
from trainer.data.tokens.tokenizer import CONFIG, FILE, TEMPLATE, tokenizer_sha256
from trainer.errors import InputError
from trainer.machine.durable import storage_errors, write_bytes

THREADS = 8  # that copy an index
MOST_TOKENIZER_BYTES = 2**28  # of tokenizer.json, and of what lies beside it


@dataclass(frozen=True)
class Mirror:
    """The local folder of a dataset's manifest.json and tokenizer/, and the address of its shards."""

    folder: Path
    address: str


def find_mirror(address: str, fetching: Fetching) -> Mirror | None:
    """The mirror of the dataset at `address`, as it is there now; None if no manifest.json is. InputError, a line.

    The ranks of a node start together: the first that comes looks, and the others take what it has found.
    """
    address = address.rstrip("/") if is_remote(address) else str(Path(address).expanduser().absolute())
    return _find(address, fetching)


@cache
def _find(address: str, fetching: Fetching) -> Mirror | None:
    cache_folder = fetching.open_folder()
    noted = cache_folder / "addresses" / xxhash.xxh3_128_hexdigest(address.encode())
    with storage_errors(cache_folder):
        noted.mkdir(parents=True, exist_ok=True, mode=0o700)
        with file_lock(noted / "lock"):
            manifest = noted / manifests.FILE
            absent = noted / "absent"
            if _is_fresh(absent):
                return None
            if not _is_fresh(manifest):
                try:
                    content = read_small(f"{address}/{manifests.FILE}", manifests.MOST_BYTES)
                except Unreachable as error:
                    if not error.missing:
                        raise
                    manifest.unlink(missing_ok=True)
                    write_bytes(absent, b"")
                    return None
                absent.unlink(missing_ok=True)
                write_bytes(manifest, content)
            return _complete(noted, address, cache_folder)


def _is_fresh(path: Path) -> bool:
    """Whether any process has looked since this one started."""
    try:
        return os.stat(path).st_mtime_ns >= started_ns()
    except FileNotFoundError:
        return False


def _complete(noted: Path, address: str, cache_folder: Path) -> Mirror:
    """Makes the folder of the dataset that a manifest is of. InputError where that, or the tokenizer, is broken."""
    try:
        manifest = manifests.read_manifest(noted)
    except InputError as error:
        raise InputError(str(error).replace(str(noted), shown_url(address))) from error
    folder = cache_folder / folder_name(manifest.fingerprint)
    content = (noted / manifests.FILE).read_bytes()
    own = folder / manifests.FILE
    tokenizer = folder / "tokenizer"
    known = own.is_file() and own.read_bytes() == content and (tokenizer / FILE).is_file()
    if known and tokenizer_sha256(tokenizer / FILE) == manifest.tokenizer_sha256:
        return Mirror(folder, address)
    tokenizer.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in (CONFIG, TEMPLATE, FILE):
        try:
            write_bytes(tokenizer / name, read_small(f"{address}/tokenizer/{name}", MOST_TOKENIZER_BYTES))
        except Unreachable as error:
            if not error.missing or name == FILE:
                raise
    if tokenizer_sha256(tokenizer / FILE) != manifest.tokenizer_sha256:
        raise InputError(
            f"{shown_url(address)}/tokenizer/{FILE}: not the tokenizer that the shards were written with "
            "(manifest.json has another sha256); put the right one there."
        )
    write_bytes(own, content)
    return Mirror(folder, address)


def mirror_files(folder: Path, address: str, files: Mapping[str, tuple[int, str]]) -> None:
    """Copies files of the dataset at `address` to a mirror's folder: names, with their bytes and sha256.

    Unreachable if one can't be read, BadFile if it is another. The first of a node's ranks does it, the others wait.
    """
    done = folder / "files"
    with storage_errors(folder), file_lock(folder / "files.lock"):
        if _is_fresh(done):
            return
        with ThreadPoolExecutor(THREADS) as requests:
            list(requests.map(lambda name: _mirror_file(folder / name, f"{address}/{name}", *files[name]), files))
        write_bytes(done, b"")


def _mirror_file(path: Path, address: str, size: int, sha256: str) -> None:
    with suppress(FileNotFoundError), open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
            return
    partial = path.with_name(f"{path.name}.{size}{PARTIAL}")
    with open(open_alone(partial), "r+b", buffering=0) as file:  # who makes room leaves it
        fetch_hashed(address, file, size=size, sha256=sha256)
        os.replace(partial, path)

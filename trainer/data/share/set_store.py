"""Where sets are shared: a folder of this machine or a mount, or a bucket. Each file is found whole, or not at all.

A folder's files are hashed again where that matters. An object in a bucket carries the sha256 that it was sent with;
the store itself has compared what came (a checksum goes with each request), and says how large it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from trainer.data.remote.origin import read_small
from trainer.data.share.placing import Advance, check_local, is_placed, make_folders, place_file
from trainer.data.share.shared_set import SetFile
from trainer.data.text.remote import (
    SCHEMES,
    Unreachable,
    file_system_of,
    is_remote,
    shown_url,
    with_retries,
)
from trainer.errors import ConfigError, InputError
from trainer.machine.credentials import check_url
from trainer.machine.durable import storage_errors, write_bytes

WRITABLE = ("s3://", "gs://")
HASH = "sha256"  # of an object's metadata
PART_BYTES = 16 * 2**20  # of a large file, sent at once
PARTS = 2  # of a file that are under way


class SetStore(Protocol):
    """A place with a folder for each set."""

    address: str

    def names(self) -> list[str]:
        """The folders in it; [] if it isn't there. Unreachable where that can't be told."""

    def sizes(self, name: str) -> dict[str, int] | None:
        """Bytes of the files in a folder, by their paths below it; None where the store can't list them."""

    def read(self, path: str, most_bytes: int) -> bytes | None:
        """A small file; None if it isn't there."""

    def holds(self, name: str, file: SetFile) -> bool:
        """Whether a set's file is there, with its size and its hash."""

    def put(self, name: str, file: SetFile, source: Path | bytes, advance: Advance) -> None:
        """Puts a file of a set there, whole. BadFile if `source` isn't what `file` says."""

    def write(self, path: str, content: bytes) -> None:
        """Writes a small file."""

    def remove(self, path: str) -> None:
        """Removes a file, if it is there."""


def open_set_store(address: str, *, writes: bool = False) -> SetStore:
    """The store at a path or URL. ConfigError for what can't be one."""
    check_url("data.store", address)
    address = address.removeprefix("file://").rstrip("/") or "/"
    if not is_remote(address):
        if "://" in address:
            raise ConfigError(f"data.store={address}: give a folder, or one of {', '.join(SCHEMES)}.")
        return FolderStore(Path(address).expanduser().absolute())
    if writes and not address.startswith(WRITABLE):
        raise ConfigError(
            f"data.store={shown_url(address)}: sets are pushed to a folder, {' or '.join(WRITABLE)}; push to a folder, "
            "then upload that with the tools of the place. Pull reads it."
        )
    return BucketStore(address)


def _read_if_there(address: str, most_bytes: int) -> bytes | None:
    try:
        return read_small(address, most_bytes)
    except Unreachable as error:
        if error.missing:
            return None
        raise


class FolderStore:
    """Sets in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = str(folder)

    def names(self) -> list[str]:
        """The visible folders in it."""
        if not self.folder.is_dir():
            return []
        return sorted(each.name for each in os.scandir(self.folder) if each.is_dir() and each.name[0] != ".")

    def sizes(self, name: str) -> dict[str, int] | None:
        """Bytes of all files in a folder."""
        found = {}
        for root, _, files in os.walk(self.folder / name):
            for file in files:
                path = Path(root, file)
                found[path.relative_to(self.folder / name).as_posix()] = path.lstat().st_size
        return found

    def read(self, path: str, most_bytes: int) -> bytes | None:
        """A small file."""
        return _read_if_there(str(self.folder / path), most_bytes)

    def holds(self, name: str, file: SetFile) -> bool:
        """Hashes the file."""
        return is_placed(self.folder / name, file)

    def put(self, name: str, file: SetFile, source: Path | bytes, advance: Advance) -> None:
        """Copies a file, going on where a kill cut it short."""
        if isinstance(source, Path):
            place_file(str(source), self.folder / name, file, advance)
        else:
            self.write(f"{name}/{file.path}", source)
            advance(file.bytes)

    def write(self, path: str, content: bytes) -> None:
        """Writes a small file durably."""
        with storage_errors(self.folder / path):
            make_folders(self.folder, path)
            write_bytes(self.folder / path, content)

    def remove(self, path: str) -> None:
        """Removes a file."""
        with storage_errors(self.folder / path):
            (self.folder / path).unlink(missing_ok=True)


class BucketStore:
    """Sets at a URL. Those of WRITABLE can be written; HTTP servers can't always list."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.scheme = address.partition("://")[0]

    def names(self) -> list[str]:
        """The folders in it, as the store lists them, or as an HTTP server's page of a folder has links."""
        files, path = file_system_of(self.address)
        folder = f"{path}/" if self.scheme.startswith("http") else path
        try:
            found = with_retries(self.address, lambda: files.ls(folder, detail=False))
        except Unreachable as error:
            if error.missing and f"{self.scheme}://" in WRITABLE and files.exists(path.partition("/")[0]):
                return []  # of a bucket that there is
            raise
        return sorted({name.rstrip("/").rpartition("/")[2] for name in found})

    def sizes(self, name: str) -> dict[str, int] | None:
        """Bytes of all objects in a folder."""
        if self.scheme.startswith("http"):
            return None
        files, path = file_system_of(f"{self.address}/{name}")
        try:
            found = with_retries(self.address, lambda: files.find(path, detail=True))
        except Unreachable as error:
            if error.missing:
                return {}
            raise
        prefix = len(path.rstrip("/")) + 1
        return {each[prefix:]: int(info.get("size") or 0) for each, info in found.items() if len(each) > prefix}

    def read(self, path: str, most_bytes: int) -> bytes | None:
        """A small object."""
        return _read_if_there(f"{self.address}/{path}", most_bytes)

    def holds(self, name: str, file: SetFile) -> bool:
        """Whether an object has the size, and was sent with the hash."""
        try:
            size, sha256 = self._ask(f"{self.address}/{name}/{file.path}")
        except Unreachable as error:
            if error.missing:
                return False
            raise
        return size == file.bytes and sha256 == file.sha256

    def _ask(self, url: str) -> tuple[int, str | None]:
        """An object's size, and the hash that it was sent with."""
        files, path = file_system_of(url)
        if self.scheme == "s3":
            bucket, key, _ = files.split_path(path)
            found = with_retries(url, lambda: files.call_s3("head_object", Bucket=bucket, Key=key))
            return int(found["ContentLength"]), found.get("Metadata", {}).get(HASH)
        info = with_retries(url, lambda: files.info(path))
        return int(info.get("size") or 0), (info.get("metadata") or {}).get(HASH)

    def put(self, name: str, file: SetFile, source: Path | bytes, advance: Advance) -> None:
        """Sends a file with its hash, and asks what has come."""
        url = f"{self.address}/{name}/{file.path}"
        if isinstance(source, bytes):
            self._send_bytes(url, source, file.sha256)
            advance(file.bytes)
        else:
            before = source.stat()
            check_local(source, file)
            self._send_file(url, source, file, advance)
            after = source.stat()
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                self.remove(f"{name}/{file.path}")
                raise InputError(f"{source}: it changed while it was sent; run the same command again.")
        if not self.holds(name, file):
            raise InputError(
                f"{shown_url(url)}: the store has another object than was sent; run the same command again."
            )

    def _send_bytes(self, url: str, content: bytes, sha256: str) -> None:
        files, path = file_system_of(url)
        with_retries(url, lambda: files.pipe_file(path, content, **self._with_hash(sha256)), done="written")

    def _send_file(self, url: str, source: Path, file: SetFile, advance: Advance) -> None:
        files, path = file_system_of(url)
        options: dict[str, Any] = {"chunksize": PART_BYTES, "callback": _callback(advance)}
        if self.scheme == "s3":
            options["max_concurrency"] = PARTS
        send = lambda: files.put_file(str(source), path, **options, **self._with_hash(file.sha256))  # noqa: E731
        with_retries(url, send, done="written")

    def _with_hash(self, sha256: str) -> dict[str, Any]:
        return {"Metadata" if self.scheme == "s3" else "metadata": {HASH: sha256}}

    def write(self, path: str, content: bytes) -> None:
        """Writes a small object."""
        url = f"{self.address}/{path}"
        files, place = file_system_of(url)
        with_retries(url, lambda: files.pipe_file(place, content), done="written")

    def remove(self, path: str) -> None:
        """Removes an object."""
        url = f"{self.address}/{path}"
        files, place = file_system_of(url)
        try:
            with_retries(url, lambda: files.rm_file(place), done="written")
        except Unreachable as error:
            if not error.missing:
                raise


def _callback(advance: Callable[[int], None]) -> Any:
    """What fsspec tells of bytes that it has sent."""
    from fsspec.callbacks import Callback

    class Told(Callback):
        def relative_update(self, inc: int = 1) -> None:
            advance(inc)

    return Told()

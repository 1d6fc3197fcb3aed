"""Sets at a URL. An object carries the sha256 that it was sent with.

The store itself has compared what came, since a checksum goes with each request, and says how large it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.data.remote.origin import read_if_there
from trainer.data.share.placing import Advance, check_local
from trainer.data.share.shared_set import SetFile
from trainer.data.text.remote import Unreachable, file_system_of, shown_url, with_retries
from trainer.errors import InputError

WRITABLE = ("s3://", "gs://")
HASH = "sha256"  # of an object's metadata
PART_BYTES = 16 * 2**20  # of a large file, sent at once
PARTS = 2  # of a file that are under way


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
        return read_if_there(f"{self.address}/{path}", most_bytes)

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


def _callback(advance: Advance) -> Any:
    """What fsspec tells of bytes that it has sent."""
    from fsspec.callbacks import Callback

    class Told(Callback):
        def relative_update(self, inc: int = 1) -> None:
            advance(inc)

    return Told()

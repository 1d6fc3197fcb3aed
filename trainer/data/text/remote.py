"""Files at a URL that fsspec knows (s3://, gs://, https://, hf://): listed, and read by ranges with back-off.

A reader sees an ordinary file that it can seek in; what is read is asked for in blocks, and each request that fails is
tried again. Whatever stays unreachable is Unreachable, an error in one line.
"""

from __future__ import annotations

import io
import logging
import os
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

import xxhash

from trainer.data.text.file_names import escape
from trainer.errors import InputError
from trainer.machine.credentials import masked
from trainer.machine.sealing.keyring import KEYRING

SCHEMES = ("s3://", "gs://", "http://", "https://", "hf://")
ATTEMPTS = 6  # of one request
FIRST_WAIT_S = 0.5  # before the second attempt; twice as long before each further one, 15.5 s in all, about
JITTER = 0.25  # of a wait: many who failed at once don't come again at once
BLOCK = 8 * 2**20  # bytes that a request asks for
CONNECT_TIMEOUT_S = 20
READ_TIMEOUT_S = 60
MEND = "look at the address, the credentials and the network, then run the same command again: it continues"

_VERSIONS = (  # what file systems tell a file's state by, the most exact first
    *("ETag", "etag", "md5Hash", "Content-MD5", "generation", "blob_id", "sha256", "last_commit"),
    *("Last-Modified", "LastModified", "last_modified", "updated", "mtime", "created"),
)
_OPTIONS: dict[str, dict[str, Any]] = {  # one layer tries again: this one
    "s3": {
        "config_kwargs": {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            "retries": {"max_attempts": 1},
        }
    },
    "http": {},
    "https": {},
}
_TRYING_AGAIN = "gs://"  # whose library tries six times by itself, and can't be told not to
_EXTRAS = {"s3": "s3", "gs": "data", "http": "data", "https": "data", "hf": "data"}

Result = TypeVar("Result")
_draw = random.Random()  # not the run's


class Unreachable(InputError):
    """A file that can't be read now, but perhaps later: what was prepared so far is kept.

    `lasting` where the store has answered, and another try at once would find the same; `missing` where it has no such
    file.
    """

    lasting = False
    missing = False


@dataclass(frozen=True)
class RemoteStatus:
    """A file at a URL: its size (None if the server doesn't say), and a number that changes with its content."""

    url: str
    bytes: int | None
    version: int


def is_remote(address: str) -> bool:
    """Whether an address is a URL of a scheme that is read."""
    return address.startswith(SCHEMES)


def status_of(url: str) -> RemoteStatus:
    """The file at `url`. Unreachable if there is none."""
    files, path = file_system_of(url)
    return _status(url, with_retries(url, lambda: files.info(path)))


def matches(url: str) -> list[RemoteStatus]:
    """The files that a glob matches, or that lie in a folder, by URL, hidden ones too; [] if it is a file."""
    files, path = file_system_of(url)
    scheme = url.partition("://")[0]
    if has_glob(url):
        found = with_retries(url, lambda: files.glob(path, detail=True))
    elif scheme in ("http", "https") or not with_retries(url, lambda: files.isdir(path)):
        return []
    else:
        found = with_retries(url, lambda: files.find(path, detail=True))
    infos = {_url(scheme, name): info for name, info in found.items() if info.get("type") == "file"}
    return [_status(name, infos[name]) for name in sorted(infos)]


def has_glob(url: str) -> bool:
    """Whether a URL is a glob; `?` isn't one of its wildcards, since it begins a query."""
    return "*" in url or ("[" in url and not url.startswith("http"))


def open_remote(url: str) -> BinaryIO:
    """The file at `url`, to be read from any place."""
    return io.BufferedReader(RangeFile(url), BLOCK)


# ------------------------------------------------------------------------------------------------------------------


def file_system_of(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it. InputError without the package that it needs."""
    scheme = url.partition("://")[0]
    try:
        import fsspec

        options = dict(_OPTIONS.get(scheme, {}))
        if scheme in ("http", "https"):
            import aiohttp

            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S)
            options["client_kwargs"] = {
                "timeout": timeout,
                "auto_decompress": False,  # a file is what its server keeps, packed or not, and so are its ranges
                "headers": {"Accept-Encoding": "identity"},
            }
        found: tuple[Any, str] = fsspec.core.url_to_fs(url, use_listings_cache=False, **options)
    except ImportError as error:
        extra = _EXTRAS[scheme]
        raise InputError(
            f"{shown_url(url)}: {scheme}:// needs a package that is missing ({_line(error)}): pip install "
            f'"banyan-train[{extra}]".'
        ) from error
    except (ValueError, OSError) as error:
        raise InputError(f"{shown_url(url)}: can't be read ({_line(error)}).") from error
    if scheme == "gs":
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # which shows each failure with its traceback
    return found


def _url(scheme: str, name: str) -> str:
    return name if name.startswith(f"{scheme}://") else f"{scheme}://{name}"


def _status(url: str, info: dict[str, Any]) -> RemoteStatus:
    said = next((info[key] for key in _VERSIONS if info.get(key)), "")
    version = xxhash.xxh3_64_intdigest(str(said).encode()) >> 1
    size = info.get("size")
    return RemoteStatus(url, size if isinstance(size, int) and size >= 0 else None, version)


def with_retries(url: str, request: Callable[[], Result], *, done: str = "read") -> Result:
    """What a request answers, tried again with back-off; Unreachable, "can't be `done`", if it fails for good."""
    attempts = 1 if url.startswith(_TRYING_AGAIN) else ATTEMPTS
    for attempt in range(1, attempts + 1):
        try:
            return request()
        except _WithoutRanges:
            raise
        except Exception as failure:  # each library has exceptions of its own for a network that fails
            error = _reason(failure)
            if isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError):
                missing = isinstance(error, FileNotFoundError)
                kind = "isn't there" if missing else f"can't be {done}"
                refusal = Unreachable(f"{shown_url(url)}: {kind} ({_line(error)}); {MEND}.")
                refusal.lasting, refusal.missing = True, missing
                raise refusal from error
            if "Credentials" in type(error).__name__:
                refusal = Unreachable(f"{shown_url(url)}: can't be {done} ({_line(error)}); {MEND}.")
                refusal.lasting = True
                raise refusal from error
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                refusal = Unreachable(
                    f"{shown_url(url)}: nobody that is trusted vouches for its certificate ({_line(error)}); name the "
                    "authority's file by SSL_CERT_FILE, of S3 by AWS_CA_BUNDLE."
                )
                refusal.lasting = True
                raise refusal from error
            if attempt == attempts:
                tried = f"can't be {done}, tried {ATTEMPTS} times" if attempts > 1 else f"can't be {done}"
                raise Unreachable(f"{shown_url(url)}: {tried} ({_line(error)}); {MEND}.") from error
            time.sleep(with_jitter(FIRST_WAIT_S * 2 ** (attempt - 1)))
    raise AssertionError


def with_jitter(seconds: float) -> float:
    """A wait of about so long."""
    return seconds * _draw.uniform(1 - JITTER, 1 + JITTER)


def _reason(error: Exception) -> BaseException:
    """The error itself, or what it hides: over HTTP, fsspec says of any failure that the file isn't there."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError):
        return error
    if isinstance(cause, RuntimeError | TimeoutError | ConnectionError):
        return cause
    if not type(cause).__module__.startswith("aiohttp"):
        return error
    status = getattr(cause, "status", None)
    if status in (401, 403):
        return PermissionError(f"HTTP {status}")
    return cause if cause is not None and (status is None or status in (408, 429) or status >= 500) else error


def shown_url(url: str) -> str:
    """A URL for people, without credentials."""
    return masked(escape(url))


def _line(error: BaseException) -> str:
    """An error in a line; where it says nothing, what caused it."""
    while not str(error).strip() and error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip()
    return masked(f"{type(error).__name__}: {text.splitlines()[0][:200]}" if text else type(error).__name__)


class _WithoutRanges(Exception):
    """The server gives files only from their beginning."""


class RangeFile(io.RawIOBase):
    """A remote file, read by ranges of BLOCK at most. From a server without ranges it is fetched to a temporary file
    first, of which no more than `most_bytes` are taken."""

    def __init__(self, url: str, most_bytes: int | None = None) -> None:
        super().__init__()
        self._url = url
        self._most_bytes = most_bytes
        self._files, self._path = file_system_of(url)
        self._status = status_of(url)
        self._place = 0
        self._handle: Any = None
        self._copy: BinaryIO | None = None

    def readable(self) -> bool:
        """Whether it can be read."""
        return True

    def seekable(self) -> bool:
        """Whether any place of it can be read."""
        return True

    def tell(self) -> int:
        """The place that is read next."""
        return self._place

    @property
    def size(self) -> int:
        """Bytes of the file."""
        if self._status.bytes is None and self._copy is None:
            self._copy = self._fetch_all()
        if self._copy is not None:
            return os.fstat(self._copy.fileno()).st_size
        return self._status.bytes or 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Reads on at another place."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place}.get(whence)
        self._place = max(0, (self.size if base is None else base) + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Reads what fits into a buffer, BLOCK bytes at most. Unreachable if that fails for good."""
        wanted = min(len(buffer), BLOCK, self.size - self._place)
        if wanted <= 0:
            return 0
        content = self._read(self._place, wanted)
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)

    def _read(self, start: int, count: int) -> bytes:
        if self._copy is None:
            try:
                return with_retries(self._url, lambda: self._range(start, count))
            except _WithoutRanges:
                self._copy = self._fetch_all()
        self._copy.seek(start)
        return self._copy.read(count)

    def _range(self, start: int, count: int) -> bytes:
        """One request. A reply of another length is an error: the connection broke, or the file has changed."""
        if self._handle is None:
            self._handle = self._files.open(self._path, "rb", block_size=BLOCK, cache_type="none")
        handle = self._handle
        self._handle = None  # after an error, the next attempt opens it anew
        if not handle.seekable():
            raise _WithoutRanges
        handle.seek(start)
        try:
            content: bytes = handle.read(count)
        except ValueError as error:
            if "range" in str(error):
                raise _WithoutRanges from error
            raise
        if len(content) != count:
            raise OSError(f"{len(content):,} bytes of {count:,} came from byte {start:,} on")
        self._handle = handle
        return content

    def _fetch_all(self) -> BinaryIO:
        """The whole file on the local disk, or in memory where text mustn't come on a disk."""

        def fetch() -> BinaryIO:
            copy = _temporary_file()
            try:
                self._fetch_into(copy)
            except BaseException:
                copy.close()
                raise
            return copy

        return with_retries(self._url, fetch)

    def _fetch_into(self, copy: BinaryIO) -> None:
        with self._files.open(self._path, "rb", block_size=0) as stream:
            while piece := stream.read(2**20):
                copy.write(piece)
                if self._most_bytes is not None and copy.tell() > self._most_bytes:
                    raise OSError(f"more than {self._most_bytes:,} bytes came")
        copy.flush()  # its size is asked for
        expected = self._status.bytes
        if expected is not None and copy.tell() != expected:
            raise OSError(f"{copy.tell():,} bytes of {expected:,} came")

    def close(self) -> None:
        """Removes the copy, if there is one."""
        if self._copy is not None:
            self._copy.close()
        super().close()


def _temporary_file() -> BinaryIO:
    if KEYRING.source is not None:
        return open(os.memfd_create("banyan-fetched", os.MFD_CLOEXEC), "w+b")
    return tempfile.TemporaryFile()

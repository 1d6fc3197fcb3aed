"""Files as they were written, whether they are encrypted on disk or not."""

from __future__ import annotations

import hashlib
import io
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trainer.machine.sealing.keyring import KEYRING
from trainer.machine.sealing.sealed_file import HEADER, SealedContent, SealedReader, SealedWriter, id_of

READ_BYTES = 2**17  # at once


def unsealed(file: io.BufferedReader, path: Path) -> io.BufferedReader:
    """The text of a file that was just opened: of an encrypted one another file, and this one is closed."""
    number = id_of(os.pread(file.fileno(), HEADER, 0))
    if number is None:
        return file
    with file:
        stored = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    content = SealedContent(stored, KEYRING.data_key(number, path), path)
    return io.BufferedReader(SealedReader(content), READ_BYTES)


def unsealed_content(stored: np.ndarray, path: Path) -> Any:
    """The text of a file that is mapped, (bytes,) uint8: itself, or SealedContent, which is indexed likewise."""
    number = id_of(stored[:HEADER].tobytes())
    return stored if number is None else SealedContent(stored, KEYRING.data_key(number, path), path)


def sealed_with(path: Path) -> bytes | None:
    """The id of the data key that a file is encrypted with; None where it isn't. OSError if it can't be read."""
    with open(path, "rb") as file:
        return id_of(file.read(HEADER))


def is_sealed(path: Path) -> bool:
    """Whether a file is encrypted. OSError if it can't be read."""
    return sealed_with(path) is not None


def stored_sha256(path: Path) -> str:
    """The sha256 of a file as it is on the disk."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plaintext_sha256(path: Path) -> str:
    """The sha256 of a file's text."""
    with open_plaintext(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_plaintext(path: Path) -> io.BufferedReader:
    """Opens a file to read its text."""
    return unsealed(open(path, "rb"), path)


def read_plaintext(path: Path) -> bytes:
    """All of a file's text."""
    with open_plaintext(path) as file:
        return file.read()


def size_of(file: BinaryIO) -> int:
    """Bytes of text of an open file, whose place stays."""
    here = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(here)
    return size


def plaintext_size(path: Path) -> int:
    """Bytes of text of a file. FileNotFoundError if it isn't there."""
    with open_plaintext(path) as file:
        return size_of(file)


def map_plaintext(path: Path, dtype: Any, offset: int, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in a file, read-only: mapped, or of an encrypted one in memory. ValueError if it ends before."""
    if not is_sealed(path):
        return np.memmap(path, dtype, "r", offset, shape)
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with open_plaintext(path) as file:
        file.seek(offset)
        content = file.read(count)
    if len(content) != count:
        raise ValueError("cut short")
    return np.frombuffer(content, dtype).reshape(shape)


@contextmanager
def sealing(file: BinaryIO, path: Path) -> Iterator[BinaryIO]:
    """What to write into for `file` to become `path`: itself, or what encrypts into it where that is wanted there."""
    key = KEYRING.data_key_for(path)
    if key is None:
        yield file
        return
    writer = SealedWriter(file, key)
    yield writer  # type: ignore[misc]
    writer.finish()

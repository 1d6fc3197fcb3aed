"""The format of an encrypted file, which can be read from anywhere and written from front to back.

    header   b"BNYNSEAL", version (u16), 2 zero bytes, bytes of a block (u32), id of the data key (16), salt (32)
    blocks   as many bytes of ciphertext as of text, and a tag of 16 bytes; all but the last one are full

Blocks are AES-256-GCM under the file's own key (data_key.py): the nonce is the block's number and whether it is the
last one, as in STREAM (Hoang, Reyhanitabar, Rogaway, Vizár, 2015), and the header is authenticated with each. A file's
key is never used again, so no nonce is; a block in another place or of another file doesn't decrypt, and neither does
the last block of a file that was cut or went on, which is the one that is looked at first.
"""

from __future__ import annotations

import io
import os
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trainer.errors import InputError
from trainer.machine.sealing.data_key import ID_BYTES, DataKey

MAGIC = b"BNYNSEAL"
VERSION = 1
BLOCK = 2**14  # bytes of text
TAG = 16
SALT = 32
_HEADER = struct.Struct(f"<8sHHI{ID_BYTES}s{SALT}s")
HEADER = _HEADER.size
BLOCKS = (2**12, 2**24)  # the sizes that are read: what others wrote must not decide on memory


def id_of(head: bytes) -> bytes | None:
    """The id of the data key of the file that begins so; None if it isn't encrypted."""
    return head[16 : 16 + ID_BYTES] if head.startswith(MAGIC) else None


def sealed_size(size: int) -> int:
    """Bytes on disk of `size` bytes of text."""
    return HEADER + size + TAG * max(1, -(-size // BLOCK))


class SealedContent:
    """The text of an encrypted file, of which a read decrypts the blocks that it touches. Threads may share it.

    `stored` (bytes,) uint8 is the file, mapped. InputError where it isn't as it was written.
    """

    def __init__(self, stored: np.ndarray, key: DataKey, path: Path) -> None:
        self.path = path
        self._stored = stored
        self._header = stored[:HEADER].tobytes()
        if len(self._header) < HEADER:
            raise self._damaged("its header")
        magic, version, _, self._block_bytes, _, salt = _HEADER.unpack(self._header)
        low, high = BLOCKS
        if magic != MAGIC or version != VERSION or not low <= self._block_bytes <= high:
            raise InputError(f"{path}: encrypted by another version of Banyan, or damaged; fetch or write it again.")
        self._cipher: Any = key.of_file(salt)
        step = self._block_bytes + TAG
        self._count = max(1, -(-(len(stored) - HEADER) // step))
        self._size = len(stored) - HEADER - TAG * self._count
        self._last: tuple[int, np.ndarray] = (-1, np.empty(0, np.uint8))
        if self._size < 0 or (self._count > 1 and self._size <= self._block_bytes * (self._count - 1)):
            raise self._damaged("its length")
        self._block(self._count - 1)  # by which the length is known to be the file's

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, where: slice | np.ndarray) -> np.ndarray:
        """Bytes at a slice, or at offsets of any shape: uint8 of that shape, perhaps read-only."""
        if isinstance(where, slice):
            start, stop, _ = where.indices(self._size)
            return self._between(start, stop)
        numbers, within = np.divmod(where.reshape(-1), self._block_bytes)
        found = np.empty(len(numbers), np.uint8)
        order = np.argsort(numbers, kind="stable")
        edges = np.flatnonzero(np.diff(numbers[order], prepend=-1)).tolist()
        for first, stop in pairwise([*edges, len(order)]):
            chosen = order[first:stop]
            found[chosen] = self._block(int(numbers[chosen[0]]))[within[chosen]]
        return found.reshape(where.shape)

    def _between(self, start: int, stop: int) -> np.ndarray:
        size = self._block_bytes
        if start >= stop:
            return np.empty(0, np.uint8)
        first, last = start // size, (stop - 1) // size
        if first == last:
            return self._block(first)[start - first * size : stop - first * size]
        found = np.empty(stop - start, np.uint8)
        for number in range(first, last + 1):
            begin = max(start, number * size)
            end = min(stop, (number + 1) * size)
            found[begin - start : end - start] = self._block(number)[begin - number * size : end - number * size]
        return found

    def _block(self, number: int) -> np.ndarray:
        """The text of a block, read-only; the last one that was asked for stays."""
        held, block = self._last
        if held == number:
            return block
        if not 0 <= number < self._count:
            raise IndexError(f"{self.path}: block {number} of {self._count}")
        begin = HEADER + number * (self._block_bytes + TAG)
        stored = self._stored[begin : begin + self._block_bytes + TAG]
        nonce = _nonce(number, last=number == self._count - 1)
        try:
            block = np.frombuffer(self._cipher.decrypt(nonce, stored.data, self._header), np.uint8)
        except Exception as error:  # InvalidTag, of a package that may not be imported here
            raise self._damaged(f"block {number}") from error
        self._last = number, block
        return block

    def _damaged(self, what: str) -> InputError:
        return InputError(
            f"{self.path}: {what} isn't what was encrypted: damaged, cut short, or of another file; fetch or write it "
            "again."
        )


class SealedReader(io.RawIOBase):
    """The text of an encrypted file, as a file to read."""

    def __init__(self, content: SealedContent) -> None:
        self._content = content
        self._place = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Goes to a byte of the text."""
        self._place = max(0, offset + {0: 0, 1: self._place, 2: len(self._content)}[whence])
        return self._place

    def tell(self) -> int:
        """The byte that is read next."""
        return self._place

    def readall(self) -> bytes:
        """All that is left."""
        found = self._content[self._place :]
        self._place = len(self._content)
        return found.tobytes()

    def readinto(self, buffer: Any) -> int:
        """Reads what fits."""
        found = self._content[self._place : self._place + len(buffer)]
        buffer[: len(found)] = found.data
        self._place += len(found)
        return len(found)


class SealedWriter(io.BufferedIOBase):
    """Encrypts what is written into `file`, front to back. Without `finish` it can't be read."""

    def __init__(self, file: BinaryIO, key: DataKey) -> None:
        self._file = file
        salt = os.urandom(SALT)
        self._header = _HEADER.pack(MAGIC, VERSION, 0, BLOCK, key.id, salt)
        self._cipher = key.of_file(salt)
        self._waiting = bytearray()  # up to a block: whether it is the last one isn't known yet
        self._number = 0
        self._written = 0
        file.write(self._header)

    def writable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Bytes of text so far."""
        return self._written

    def write(self, content: Any) -> int:
        """Takes all of it."""
        view = memoryview(content).cast("B")
        size = len(view)
        self._written += size
        while len(self._waiting) + len(view) > BLOCK:
            room = BLOCK - len(self._waiting)
            if room == BLOCK:
                self._encrypt(view[:BLOCK], last=False)
            else:
                self._waiting += view[:room]
                self._encrypt(self._waiting, last=False)
                self._waiting = bytearray()
            view = view[room:]
        self._waiting += view
        return size

    def finish(self) -> None:
        """Writes the last block."""
        self._encrypt(self._waiting, last=True)
        self._waiting = bytearray()

    def _encrypt(self, text: bytes | bytearray | memoryview, *, last: bool) -> None:
        self._file.write(self._cipher.encrypt(_nonce(self._number, last=last), text, self._header))
        self._number += 1


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])

"""Plain and packed files (gzip, zstandard, xz, bzip2): bytes in pieces of bounded size, however well packed; lines."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from trainer.data.text.file_names import escape
from trainer.errors import InputError
from trainer.machine.sealing.plaintext import size_of

PACKINGS = ("", ".gz", ".zst", ".xz", ".bz2")
PIECE = 2**20  # bytes taken at once
MOST_PADDING = 2**20  # bytes of zeros after a gzip archive, as tapes have them
ZSTD_PIECE = 512  # compressed bytes taken at once: they hold 16 MiB at most, since a block of 128 KiB takes 4 bytes
ZSTD_WINDOW = 2**27  # bytes; what zstd itself allows without --long
XZ_MEMORY = 2**28  # bytes; xz -9 takes 64 MiB
PACKED_PIECE = 2**16
_MAGIC = {  # none of them begins a UTF-8 text but bzip2's, after which comes that of its first block
    b"\x1f\x8b": ".gz",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"\xfd7zXZ\x00": ".xz",
}
_BZIP2 = (b"BZh", b"1AY&SY")
_STREAM = re.compile(rb"BZh[1-9]1AY&SY")
_STREAM_MARK = 10  # bytes of it


class DamagedArchive(InputError):
    """A packed file that is cut short, broken or empty."""


def pieces(file: BinaryIO, name: str, packing: str, most_bytes: int = 0) -> Iterator[bytes]:
    """The unpacked bytes of a file, at most PIECE at a time; a cut or damaged archive is an error that has its `name`.

    `packing` is what its name says (of PACKINGS); a packed file without such a name is known by its first bytes.
    A window of `most_bytes` may be needed for unpacking, or a usual one in any case.
    """
    begin = file.read(10)
    file.seek(0)
    if packing and not begin:
        raise DamagedArchive(f"{escape(name)}: an empty file is no {packing} archive: fetch or write it again.")
    packing = packing or packing_of(begin)
    if packing == ".zst":
        yield from _unpack_zstd(name, file, max(ZSTD_WINDOW, most_bytes))
    elif packing == ".gz":
        yield from _unpack_gzip(name, file)
    elif packing == ".xz":
        yield from _unpack_xz(name, file, max(XZ_MEMORY, most_bytes))
    elif packing == ".bz2":
        for _, piece in bzip2_streams(file, name):
            yield piece
    else:
        while piece := file.read(PIECE):
            yield piece


def packing_of(begin: bytes) -> str:
    """How a file is packed that begins so; "" if it isn't."""
    known = next((known for magic, known in _MAGIC.items() if begin.startswith(magic)), "")
    return ".bz2" if begin.startswith(_BZIP2[0]) and begin[4:10] == _BZIP2[1] else known


class Stream(io.RawIOBase):
    """Pieces as a file that is read from front to back, for libraries that want one."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self._pieces = pieces
        self._held = memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer from the next piece."""
        while not self._held:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._held = memoryview(piece)
        count = min(len(buffer), len(self._held))
        buffer[:count] = self._held[:count]
        self._held = self._held[count:]
        return count


def beginning(pieces: Iterator[bytes], size: int) -> tuple[bytes, list[bytes], bool]:
    """The first `size` bytes, the pieces that were taken for them, and whether they are all that there is."""
    taken, held = [], 0
    for piece in pieces:
        taken.append(piece)
        held += len(piece)
        if held > size:
            return b"".join(taken)[:size], taken, False
    return b"".join(taken), taken, True


def whole(pieces: Iterable[bytes], most_bytes: int) -> bytes | int:
    """All bytes together; if they are more than `most_bytes`, how many were seen till that was clear."""
    held, size = [], 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size > most_bytes:
            return size
    return b"".join(held)


def lines(pieces: Iterable[bytes], most_bytes: int, end: bytes = b"\n") -> Iterator[bytes | None]:
    """What stands between the `end`s, such as lines; None for each that is longer than `most_bytes`, not held then."""
    held: list[bytes] = []
    size = 0
    for piece in _uncut(pieces, end):
        first, *others = piece.split(end)
        size += len(first)
        if size <= most_bytes:
            held.append(first)
        else:
            held.clear()
        if not others:
            continue
        yield b"".join(held) if size <= most_bytes else None
        *between, last = others
        for line in between:
            yield line if len(line) <= most_bytes else None
        held, size = [last], len(last)
    yield b"".join(held) if size <= most_bytes else None


def separated(pieces: Iterable[bytes], most_bytes: int, end: bytes) -> Iterator[bytes | None]:
    """As `lines`, but where nothing stands after the last `end`, that is no line."""
    parts = lines(pieces, most_bytes, end)
    held = next(parts, b"")
    for part in parts:
        yield held
        held = part
    if held != b"":
        yield held


def _uncut(pieces: Iterable[bytes], end: bytes) -> Iterator[bytes]:
    """The same bytes in pieces of which none ends within an `end`, as those are found from the left."""
    if len(end) == 1:
        yield from pieces
        return
    held = b""
    for piece in pieces:
        piece = held + piece
        cut = len(piece) - min(len(end) - 1, len(piece.split(end)[-1]))
        held = piece[cut:]
        yield piece[:cut]
    yield held


def _damaged(name: str, error: Exception) -> DamagedArchive:
    return DamagedArchive(f"{escape(name)}: damaged or cut short ({error}); fetch or write it again.")


def _unpack_gzip(name: str, file: BinaryIO) -> Iterator[bytes]:
    _check_tail(name, file)
    try:
        with gzip.GzipFile(fileobj=file) as unpacked:
            while piece := unpacked.read(PIECE):
                yield piece
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(name, error) from error


def _check_tail(name: str, file: BinaryIO) -> None:
    """Refuses a file that ends in more zeros than an archive's padding: gzip looks at them one by one."""
    if size_of(file) > MOST_PADDING:
        file.seek(-MOST_PADDING, os.SEEK_END)
        tail = file.read()
        file.seek(0)
        if tail.count(0) == len(tail):
            raise DamagedArchive(
                f"{escape(name)}: ends in more than {MOST_PADDING:,} zeros: it is damaged, or not all written yet; "
                "fetch or write it again."
            )


def _unpack_xz(name: str, file: BinaryIO, memory: int) -> Iterator[bytes]:
    try:
        for _, piece in _unpack_streams(name, file, lambda: lzma.LZMADecompressor(memlimit=memory)):
            yield piece
    except lzma.LZMAError as error:
        if "Memory" in str(error):
            raise DamagedArchive(
                f"{escape(name)}: unpacking it takes more than {memory:,} bytes of memory: raise "
                "data.most_document_bytes to what it takes, or compress it again with a smaller dictionary."
            ) from error
        raise _damaged(name, error) from error


def bzip2_streams(file: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    """What the streams of a bzip2 file hold from here on, in pieces, each with the byte at which its stream begins."""
    try:
        yield from _unpack_streams(name, file, bz2.BZ2Decompressor)
    except OSError as error:
        if error.errno is not None:  # the disk's, not the library's
            raise
        raise _damaged(name, error) from error


def next_bzip2_stream(file: BinaryIO, start: int, most_bytes: int) -> int | None:
    """The first byte from `start` on, within `most_bytes`, at which a stream of bzip2 begins."""
    file.seek(start)
    held, begin = b"", start
    while begin < start + most_bytes and (content := file.read(PIECE)):
        held += content
        if found := _STREAM.search(held):
            return begin + found.start()
        done = max(0, len(held) - _STREAM_MARK + 1)
        held, begin = held[done:], begin + done
    return None


def _unpack_streams(name: str, file: BinaryIO, begin: Any) -> Iterator[tuple[int, bytes]]:
    """What the streams of a file hold that stand one after the other (Wikipedia's dumps have 100,000 of them)."""
    start = file.tell()
    unpacker, packed, read = begin(), b"", start
    while packed or not unpacker.needs_input or (packed := file.read(PACKED_PIECE)):
        read += len(packed)
        piece, packed = unpacker.decompress(packed, PIECE), b""
        if piece:
            yield start, piece
        if unpacker.eof:
            packed = unpacker.unused_data.lstrip(b"\0")  # xz pads with zeros
            read -= len(packed)
            while not packed:
                if not (packed := file.read(PACKED_PIECE)):
                    return
                read += len(packed)
                packed = packed.lstrip(b"\0")
                read -= len(packed)
            unpacker, start = begin(), read
    raise DamagedArchive(f"{escape(name)}: cut short within a compressed stream; fetch or write it again.")


def _unpack_zstd(name: str, file: BinaryIO, window: int) -> Iterator[bytes]:
    """What the frames of a .zst file hold. (The library's own stream reader takes a cut file for a whole one.)"""
    import zstandard

    frame = None
    try:
        while packed := file.read(ZSTD_PIECE):
            while packed:
                frame = frame or zstandard.ZstdDecompressor(max_window_size=window).decompressobj()
                unpacked = frame.decompress(packed)
                for start in range(0, len(unpacked), PIECE):
                    yield unpacked[start : start + PIECE]
                packed = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        if "too much memory" in str(error):
            raise DamagedArchive(
                f"{escape(name)}: unpacking it takes a window of more than {window:,} bytes: raise "
                "data.most_document_bytes to the window's size, or compress it again without --long."
            ) from error
        raise DamagedArchive(f"{escape(name)}: damaged ({error}); fetch or write it again.") from error
    if frame is not None:
        raise DamagedArchive(f"{escape(name)}: cut short within a zstandard frame; fetch or write it again.")

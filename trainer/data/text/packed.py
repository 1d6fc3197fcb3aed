"""Plain, gzip and zstandard files: their bytes in pieces of bounded size, however well they compress, and lines."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from trainer.data.text.file_names import escape
from trainer.errors import InputError

PACKINGS = ("", ".gz", ".zst")
PIECE = 2**20  # bytes taken at once
MOST_PADDING = 2**20  # bytes of zeros after a gzip archive, as tapes have them
ZSTD_PIECE = 512  # compressed bytes taken at once: they hold 16 MiB at most, since a block of 128 KiB takes 4 bytes
ZSTD_WINDOW = 2**27  # bytes; what zstd itself allows without --long
_MAGIC = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}  # neither begins a UTF-8 text


def pieces(path: Path, packing: str, most_bytes: int = 0) -> Iterator[bytes]:
    """The unpacked bytes of a file, at most PIECE at a time; a cut or damaged archive is an error.

    `packing` is what its name says (of PACKINGS); a packed file without such a name is known by its first bytes.
    zstandard may need memory for a window of `most_bytes`, and for its usual window in any case.
    """
    with open(path, "rb") as file:
        begin = file.read(4)
        file.seek(0)
        if packing and not begin:
            raise InputError(f"{escape(path)}: an empty file is no {packing} archive: fetch or write it again.")
        packing = packing or next((known for magic, known in _MAGIC.items() if begin.startswith(magic)), "")
        if packing == ".zst":
            yield from _unpack_zstd(path, file, max(ZSTD_WINDOW, most_bytes))
        elif packing == ".gz":
            yield from _unpack_gzip(path, file)
        else:
            while piece := file.read(PIECE):
                yield piece


def beginning(pieces: Iterator[bytes], size: int) -> tuple[bytes, list[bytes], bool]:
    """The first `size` bytes, the pieces that were taken for them, and whether they are all that there is."""
    taken, held = [], 0
    for piece in pieces:
        taken.append(piece)
        held += len(piece)
        if held > size:
            return b"".join(taken)[:size], taken, False
    return b"".join(taken), taken, True


def lines(pieces: Iterator[bytes], most_bytes: int) -> Iterator[bytes | None]:
    """The lines without their line feeds; None for each that is longer than `most_bytes`, which isn't held."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        first, *others = piece.split(b"\n")
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


def _unpack_gzip(path: Path, file: BinaryIO) -> Iterator[bytes]:
    _check_tail(path, file)
    try:
        with gzip.GzipFile(fileobj=file) as unpacked:
            while piece := unpacked.read(PIECE):
                yield piece
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{escape(path)}: damaged or cut short ({error}); fetch or write it again.") from error


def _check_tail(path: Path, file: BinaryIO) -> None:
    """Refuses a file that ends in more zeros than an archive's padding: gzip looks at them one by one."""
    if os.fstat(file.fileno()).st_size > MOST_PADDING:
        file.seek(-MOST_PADDING, os.SEEK_END)
        tail = file.read()
        file.seek(0)
        if tail.count(0) == len(tail):
            raise InputError(
                f"{escape(path)}: ends in more than {MOST_PADDING:,} zeros: it is damaged, or not all written yet; "
                "fetch or write it again."
            )


def _unpack_zstd(path: Path, file: BinaryIO, window: int) -> Iterator[bytes]:
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
            raise InputError(
                f"{escape(path)}: unpacking it takes a window of more than {window:,} bytes: raise "
                "data.most_document_bytes to the window's size, or compress it again without --long."
            ) from error
        raise InputError(f"{escape(path)}: damaged ({error}); fetch or write it again.") from error
    if frame is not None:
        raise InputError(f"{escape(path)}: cut short within a zstandard frame; fetch or write it again.")

"""Arrays in .npy and .npz files, strictly: kind of numbers and size are checked before anything is allocated."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from trainer.machine.json_file import Malformed, open_regular
from trainer.machine.sealing.plaintext import size_of

MOST_HEADER_BYTES = 4096  # of a plain array's header, which has 128


def read_header(file: BinaryIO, size: int) -> tuple[np.dtype, tuple[int, ...]]:
    """Type and shape of the .npy of `size` bytes that begins here; `file` is then at its first element.

    Malformed if it isn't one, of plain numbers in row order, with exactly as many bytes as they need.
    """
    begin = file.tell()
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_column, kind = read(file, max_header_size=MOST_HEADER_BYTES)
    except Exception as error:  # numpy evaluates the header, and raises whatever that does
        raise Malformed("no .npy array") from error
    count = 1
    for length in shape:
        count *= length
    if kind.kind not in "iuf" or not kind.isnative or (by_column and len(shape) > 1) or min(shape, default=0) < 0:
        raise Malformed("no .npy array of plain numbers")
    if file.tell() - begin + count * kind.itemsize != size:
        raise Malformed("another size than the .npy header says")
    return kind, shape


def read_array(file: BinaryIO, size: int, kind: np.dtype, columns: int | None = None) -> np.ndarray:
    """The .npy of `size` bytes that begins here, if it is of `kind`: (rows,) or, with `columns`, (rows, columns)."""
    found, shape = read_header(file, size)
    if found != kind or len(shape) != (1 if columns is None else 2) or (columns is not None and shape[1] != columns):
        raise Malformed(f"{found} {list(shape)[:4]} where {kind} [rows{'' if columns is None else f', {columns}'}] was")
    return np.frombuffer(file.read(shape[0] * (columns or 1) * kind.itemsize), kind).reshape(shape)


def read_npy(path: Path, kind: np.dtype, columns: int, *, most_rows: int) -> np.ndarray:
    """The array (rows, columns) in a file, read-only; as `read_array`. OSError if the file can't be read."""
    with open_regular(path) as file:
        size = size_of(file)
        if size > MOST_HEADER_BYTES + most_rows * columns * kind.itemsize:
            raise Malformed(f"more than {most_rows:,} rows")
        return read_array(file, size, kind, columns)


def read_npz(path: Path, kinds: Mapping[str, tuple[type, int | None]]) -> dict[str, np.ndarray]:
    """The arrays of these names, each of a kind and a number of columns as in `read_array`. Malformed if that can't be.

    Nothing may be compressed, as np.savez leaves it: what is read is no larger than the file.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            return {name: _read_member(archive, name, *kind) for name, kind in kinds.items()}
    except OSError as error:
        raise Malformed(error.strerror or str(error)) from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, KeyError, EOFError) as error:
        raise Malformed(f"no .npz of {', '.join(kinds)}") from error


def _read_member(archive: zipfile.ZipFile, name: str, kind: type, columns: int | None) -> np.ndarray:
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise Malformed(f"{name} is compressed")
    with archive.open(info) as member:
        content = member.read()
    return read_array(BytesIO(content), len(content), np.dtype(kind), columns)

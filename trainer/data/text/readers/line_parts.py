"""Parts of files whose records end in a fixed mark, such as lines: a record belongs to the part that it begins in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from trainer.data.text.packed import PIECE
from trainer.data.text.reading import WHOLE, Part
from trainer.machine.sealing.plaintext import size_of

STEP = 2**16  # bytes looked back at first, where marks may overlap


def even_parts(size: int, wanted_bytes: int) -> list[Part]:
    """A file of `size` bytes in equal ranges of about `wanted_bytes`."""
    count = size // max(1, wanted_bytes)
    if count < 2:
        return [WHOLE]
    edges = [size * edge // count for edge in range(count)]
    return [
        Part(start, stop, (size if stop is None else stop) - start)
        for start, stop in zip(edges, [*edges[1:], None], strict=True)
    ]


def bytes_of_part(file: BinaryIO, part: Part, mark: bytes) -> Iterator[bytes]:
    """The bytes of the records that begin in a part, in pieces; a record ends in `mark`, or with the file."""
    size = size_of(file)
    place = _record_start(file, part.start, mark, size, limit=part.stop)
    if part.stop is not None and place >= part.stop:  # within a record that began before
        return
    end = size if part.stop is None else _record_start(file, part.stop, mark, size)
    file.seek(place)
    while place < end and (content := file.read(min(PIECE, end - place))):
        place += len(content)
        yield content


def _record_start(file: BinaryIO, offset: int, mark: bytes, size: int, *, limit: int | None = None) -> int:
    """The first byte from `offset` on with which a record begins; the file's end, or some byte after `limit`, if none.

    Records may be longer than many parts: nobody looks beyond its own for where it begins.
    """
    if offset <= 0 or offset >= size:
        return max(0, min(offset, size))
    place = _aligned(file, max(0, offset - len(mark)), mark)
    file.seek(place)
    held = b""
    while content := file.read(PIECE):
        held += content
        done = 0
        while (found := held.find(mark, done)) >= 0:
            done = found + len(mark)
            if place + done >= offset:
                return place + done
        done = max(done, len(held) - len(mark) + 1)
        place, held = place + done, held[done:]
        if limit is not None and place >= limit:
            break
    return size


def _aligned(file: BinaryIO, place: int, mark: bytes) -> int:
    """The last byte up to `place` from which looking for marks finds the same ones as from the file's beginning.

    Marks that overlap, as in three line feeds where two are the mark, are taken from the left: so the first of such a
    run must be found.
    """
    size = len(mark)
    if not any(mark[:part] == mark[-part:] for part in range(1, size)):
        return place
    pattern = re.compile(b"(?=" + re.escape(mark) + b")", re.DOTALL)
    first, step = place, STEP
    while first > 0:
        first, step = max(0, place - step), 2 * step
        file.seek(first)
        held = file.read(place - first + size - 1)
        starts = first + np.fromiter((match.start() for match in pattern.finditer(held)), np.int64)
        if not len(starts) or starts[-1] + size <= place:
            return place
        gaps = np.flatnonzero(np.diff(starts) >= size)
        run = int(starts[gaps[-1] + 1] if len(gaps) else starts[0])
        if len(gaps) or first == 0 or run - first >= size - 1:
            return run
    return place

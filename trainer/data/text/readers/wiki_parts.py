"""A wiki's dump in parts: plain, cut at any byte; packed by bzip2, between its streams, of which dumps have many.

A page belongs to the part in which its tag begins. The text of a page can't hold that tag, since XML writes < as &lt;.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from trainer.data.text.files import open_file
from trainer.data.text.packed import PIECE, beginning, bzip2_streams, next_bzip2_stream, packing_of
from trainer.data.text.readers.line_parts import even_parts
from trainer.data.text.reading import WHOLE, Part
from trainer.data.text.sources import Source, content_of

MOST_HEADER = 2**20  # bytes before the first page
LOOK = 2**26  # bytes in which a stream must begin: those of Wikipedia's dumps are shorter than 1 MB
END = b"</mediawiki>"
_PAGE = re.compile(rb"<page[\s>]")
_MARK = 6  # bytes of it

Piece = tuple[bytes, bool]
"""Bytes of a dump, and whether they belong to the next part."""


def wiki_parts(source: Source, wanted_bytes: int) -> list[Part]:
    """Ranges of the file's bytes; [WHOLE] where it is packed in one stream, or isn't as MediaWiki writes it."""
    starts = [part.start for part in even_parts(source.bytes, wanted_bytes)]
    if _header(source) is None:
        return [WHOLE]
    with open_file(source.address) as file:
        packing = source.packing or packing_of(file.read(10))
        if packing == ".bz2":
            found = [0]
            for start in starts[1:]:
                stream = next_bzip2_stream(file, max(start, found[-1] + 1), LOOK)
                if stream is None:
                    break
                found.append(stream)
            starts = found
        elif packing:
            return [WHOLE]
    stops = [*starts[1:], None]
    return [
        Part(start, stop, (source.bytes if stop is None else stop) - start)
        for start, stop in zip(starts, stops, strict=True)
    ]


@contextmanager
def content_of_part(source: Source, part: Part) -> Iterator[Iterator[bytes]]:
    """XML with the pages that begin in a part, in pieces; none where no page does."""
    if part.is_whole:
        with content_of(source) as content:
            yield content
        return
    header = (_header(source) or b"") if part.start else b""
    with open_file(source.address) as file:
        packing = source.packing or packing_of(file.read(10))
        file.seek(part.start)
        pieces = _unpacked(file, source.address, part) if packing else _plain(file, part)
        yield _pages(pieces, header)


def _header(source: Source) -> bytes | None:
    """What stands before the first page; None if that isn't found."""
    with content_of(source) as content:
        head, _, _ = beginning(content, MOST_HEADER)
    found = _PAGE.search(head)
    return head[: found.start()] if found and b"<mediawiki" in head[: found.start()] else None


def _plain(file: BinaryIO, part: Part) -> Iterator[Piece]:
    place = part.start
    while True:
        is_next = part.stop is not None and place >= part.stop
        content = file.read(PIECE if part.stop is None or is_next else min(PIECE, part.stop - place))
        if not content:
            return
        yield content, is_next
        place += len(content)


def _unpacked(file: BinaryIO, name: str, part: Part) -> Iterator[Piece]:
    for stream, piece in bzip2_streams(file, name):
        yield piece, part.stop is not None and stream >= part.stop


def _pages(pieces: Iterator[Piece], header: bytes) -> Iterator[bytes]:
    """All up to the next part's first page; with a `header`, that, and then from this part's first page on."""
    held, edge, begun = b"", -1, not header  # `edge`: where in `held` the next part's bytes begin, once they came
    for piece, is_next in pieces:
        if is_next and edge < 0:
            edge = len(held)
        held += piece
        if not begun:
            found = _PAGE.search(held)
            if found is None or 0 <= edge <= found.start():
                if edge >= 0 and (found or len(held) - edge >= _MARK):
                    return
                done = 0 if edge >= 0 else max(0, len(held) - _MARK + 1)
                held = held[done:]
                continue
            begun = True
            yield header
            edge = edge - found.start() if edge >= 0 else edge
            held = held[found.start() :]
        if edge < 0:
            yield held
            held = b""
            continue
        found = _PAGE.search(held, edge)
        if found:
            yield held[: found.start()] + END
            return
        done = max(edge, len(held) - _MARK + 1)
        yield held[:done]
        held, edge = held[done:], 0
    if begun:
        yield held

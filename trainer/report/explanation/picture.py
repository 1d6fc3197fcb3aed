"""An attention map as a PNG in a data URI: one blue, the more opaque the more attention, for paper of any colour."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

LEVELS = 64
BLUE = (0x3B, 0x6F, 0xB6)


def map_as_uri(rows: Sequence[Sequence[float]], earlier: Sequence[float] | None) -> str:
    """A picture, a pixel for each value, by square roots, so that little is seen too; what isn't there is clear.

    `earlier` is a column of its own on the left.
    """
    columns = len(rows) + (earlier is not None)
    lines = []
    for place, row in enumerate(rows):
        values = [*([earlier[place]] if earlier is not None else []), *row]
        levels = [round(max(0.0, min(1.0, value)) ** 0.5 * (LEVELS - 1)) for value in values]
        lines.append(bytes([0, *levels, *[0] * (columns - len(levels))]))  # 0: a line without a filter
    alpha = bytes(round(255 * level / (LEVELS - 1)) for level in range(LEVELS))
    content = (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", columns, len(rows), 8, 3, 0, 0, 0))
        + _chunk(b"PLTE", bytes(BLUE) * LEVELS)
        + _chunk(b"tRNS", alpha)
        + _chunk(b"IDAT", zlib.compress(b"".join(lines), 9))
        + _chunk(b"IEND", b"")
    )
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

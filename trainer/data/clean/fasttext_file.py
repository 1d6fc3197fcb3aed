"""fastText's files, walked through: what one states of itself must be there to its end.

The library reads on where a file has ended, and takes what was in memory before for sizes. The format is that of
fastText 0.9.2 (src/fasttext.cc, dictionary.cc, densematrix.cc, quantmatrix.cc, productquantizer.cc).
"""

from __future__ import annotations

import math
import mmap
import struct
from typing import Any

Buffer = bytes | mmap.mmap

_MAGIC = 793712314
_HEAD = struct.Struct("<14i d 3i 2q")  # magic, version, twelve settings and a threshold; then sizes of the dictionary
_LEAST_ENTRY = 10  # bytes of a word in the dictionary
_DENSE = struct.Struct("<2q")  # rows and columns, of floats
_QUANTIZED = struct.Struct("<? 2q i")  # whether norms are apart, rows, columns, bytes of codes
_QUANTIZER = struct.Struct("<4i")  # dimensions, of which each has 256 centroids; how they are cut
_CUT = "it is cut short"


def check_fasttext(content: Buffer) -> None:
    """ValueError where it is of no model for classification, or not whole."""
    size = len(content)
    if size < _HEAD.size:
        raise ValueError(_CUT)
    magic, _version, dimensions, *_, entries, words, labels, _seen, pruned = _HEAD.unpack_from(content)
    if magic != _MAGIC or min(dimensions, labels) < 1 or entries != words + labels or entries * _LEAST_ENTRY > size:
        raise ValueError("its head is of no model for classification")
    place = _HEAD.size
    for _ in range(entries):  # a word, its count, its kind
        end = content.find(b"\0", place)
        if end < 0:
            raise ValueError(_CUT)
        place = end + 1 + 8 + 1
    place += 8 * max(0, pruned)
    (is_quantized,), place = _read(content, place, "<?")
    place = _after_matrix(content, place, quantized=is_quantized)
    (quantizes_output,), place = _read(content, place, "<?")
    _after_matrix(content, place, quantized=is_quantized and quantizes_output)


def _after_matrix(content: Buffer, place: int, *, quantized: bool) -> int:
    if not quantized:
        (rows, columns), place = _read(content, place, _DENSE.format)
        return _skip(content, place, rows, columns, 4)
    (has_norms, rows, _columns, codes), place = _read(content, place, _QUANTIZED.format)
    place = _after_quantizer(content, _skip(content, place, codes))
    return _after_quantizer(content, _skip(content, place, rows)) if has_norms else place


def _after_quantizer(content: Buffer, place: int) -> int:
    (dimensions, *_), place = _read(content, place, _QUANTIZER.format)
    return _skip(content, place, dimensions, 256, 4)


def _read(content: Buffer, place: int, form: str) -> tuple[tuple[Any, ...], int]:
    end = place + struct.calcsize(form)
    if end > len(content):
        raise ValueError(_CUT)
    return struct.unpack_from(form, content, place), end


def _skip(content: Buffer, place: int, *factors: int) -> int:
    """The place behind so many bytes, which must be there."""
    if min(factors) < 0:
        raise ValueError("a size in it is negative")
    end = place + math.prod(factors)
    if end > len(content):
        raise ValueError(_CUT)
    return end

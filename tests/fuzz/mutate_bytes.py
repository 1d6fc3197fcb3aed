"""Mutations of bytes, whatever they mean."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1)

Mutation = Callable[[Random, bytes], bytes]


def place(draw: Random, size: int) -> int:
    """A place below `size`, the same share of it whatever a time of day added to the length."""
    return int(draw.random() * size)


def span(draw: Random, size: int) -> tuple[int, int]:
    """A range, mostly short."""
    start = place(draw, size)
    length = draw.choice((1, 2, 4, 8, 64, 512, max(1, size // 4)))
    return start, min(size, start + length)


def flip_bit(draw: Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 3, 20))):
        changed[place(draw, len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def set_byte(draw: Random, content: bytes) -> bytes:
    changed = bytearray(content)
    changed[place(draw, len(changed))] = draw.choice(b'\0\xff\x80"{}[],:\n\\-09./')
    return bytes(changed)


def truncate(draw: Random, content: bytes) -> bytes:
    return content[: draw.choice((place(draw, len(content)), len(content) - 1, len(content) // 2, 1, 7, 8, 9, 512))]


def empty(draw: Random, content: bytes) -> bytes:
    return b""


def extend(draw: Random, content: bytes) -> bytes:
    tail = draw.choice((b"\0", b"\0" * 512, b"\n", b"x", draw.randbytes(100), content))
    return content + tail


def zero(draw: Random, content: bytes) -> bytes:
    start, stop = span(draw, len(content))
    return content[:start] + bytes(stop - start) + content[stop:]


def ones(draw: Random, content: bytes) -> bytes:
    start, stop = span(draw, len(content))
    return content[:start] + b"\xff" * (stop - start) + content[stop:]


def duplicate(draw: Random, content: bytes) -> bytes:
    start, stop = span(draw, len(content))
    return content[:stop] + content[start:stop] * draw.choice((1, 1, 50)) + content[stop:]


def remove(draw: Random, content: bytes) -> bytes:
    start, stop = span(draw, len(content))
    return content[:start] + content[stop:]


def splice(draw: Random, content: bytes) -> bytes:
    """A range overwritten with another one of the same file."""
    start, stop = span(draw, len(content))
    other = place(draw, len(content))
    taken = content[other : other + stop - start]
    return content[:start] + taken + content[start + len(taken) :]


def swap(draw: Random, content: bytes) -> bytes:
    half = place(draw, len(content))
    return content[half:] + content[:half]


def noise(draw: Random, content: bytes) -> bytes:
    return draw.randbytes(draw.choice((1, 16, 300, len(content))))


def extreme_number(draw: Random, content: bytes) -> bytes:
    """Eight bytes somewhere, or at the beginning, as an extreme whole number."""
    number = struct.pack(draw.choice("<>") + "Q", draw.choice(EXTREMES))
    at = draw.choice((0, place(draw, len(content)) // 8 * 8))
    return content[:at] + number + content[at + 8 :]


def mark(draw: Random, content: bytes) -> bytes:
    """Another encoding's first bytes, or another encoding."""
    text = content.decode("utf-8", "replace")
    return draw.choice(
        (
            b"\xef\xbb\xbf" + content,
            b"\xff\xfe" + content,
            text.encode("utf-16"),
            text.encode("utf-32"),
            b"\x1f\x8b" + content,
            b"\x28\xb5\x2f\xfd" + content,
            b"\x80\x04" + content,
            content.replace(b"\n", b"\r\n"),
        )
    )


MUTATIONS: tuple[Mutation, ...] = (
    flip_bit,
    set_byte,
    truncate,
    empty,
    extend,
    zero,
    ones,
    duplicate,
    remove,
    splice,
    swap,
    noise,
    extreme_number,
    mark,
)


def mutate(draw: Random, content: bytes) -> tuple[bytes, str]:
    """The bytes, mutated, and how."""
    chosen = draw.choice(MUTATIONS) if content else extend
    return chosen(draw, content), chosen.__name__

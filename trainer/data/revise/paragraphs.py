"""A text's paragraphs, and which of them are the same: equal but for case and the amount of white space."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass

import xxhash

from trainer.config.paragraphs import BLANK_LINES, LINES, Paragraphs

BETWEEN = {BLANK_LINES: re.compile(r"\n(?:[^\S\n]*\n)+"), LINES: re.compile(r"\n")}


@dataclass(frozen=True)
class Paragraph:
    """Characters [start, stop) of a text. Those are compared that are long enough and have a letter or digit."""

    start: int
    stop: int
    is_compared: bool


def paragraphs_of(text: str, settings: Paragraphs) -> list[Paragraph]:
    """All paragraphs of a text, in order."""
    found, start = [], 0
    for separator in BETWEEN[settings.between].finditer(text):
        found.append(_paragraph(text, start, separator.start(), settings.lowest_bytes))
        start = separator.end()
    return [*found, _paragraph(text, start, len(text), settings.lowest_bytes)]


def _paragraph(text: str, start: int, stop: int, lowest_bytes: int) -> Paragraph:
    length = stop - start
    if 4 * length < lowest_bytes:  # a character has one byte to four
        return Paragraph(start, stop, is_compared=False)
    content = text[start:stop]
    is_long = length >= lowest_bytes or len(content.encode("utf-8")) >= lowest_bytes
    return Paragraph(start, stop, is_long and any(map(str.isalnum, content)))


def digest_of(text: str, paragraph: Paragraph) -> bytes:
    """The xxh3-128 of a paragraph in small letters and with single blanks."""
    words = text[paragraph.start : paragraph.stop].lower().split()
    return xxhash.xxh3_128_digest(" ".join(words).encode("utf-8"))


def without(text: str, paragraphs: Sequence[Paragraph], taken: Container[int]) -> str:
    """The text without the paragraphs with these numbers, each taken out with what stands between it and the next."""
    kept: list[str] = []
    for number, paragraph in enumerate(paragraphs):
        if number not in taken:
            between = text[paragraphs[number - 1].stop : paragraph.start] if kept else ""
            kept += [between, text[paragraph.start : paragraph.stop]]
    return "".join(kept)

"""A chunk of English without white space → its words, as spaCy's tokenizer for English splits it.

Rules, exceptions and the order in which they are tried are spaCy's (rules.json says which version): datatrove counts
words with it, and a filter's verdict hangs on what a word is. "don't," → do n't ,
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

LONGEST_SUFFIX = 12  # characters, and more than any but a row of full stops
RULES = Path(__file__).with_name("rules.json")


class EnglishPieces:
    """Splits chunks; made once, `english_pieces()`, since the rules take a moment to compile."""

    def __init__(self) -> None:
        rules = json.loads(RULES.read_text(encoding="utf-8"))
        self.exceptions: dict[str, list[str]] = rules["exceptions"]
        self.prefix = re.compile(rules["prefix"]).search
        self.suffix = re.compile(rules["suffix"]).search
        self.suffix_pattern: str = rules["suffix"]
        self.infixes = re.compile(rules["infix"]).finditer
        self._is_url = re.compile(rules["url"]).match
        self.phrases = self._exceptions_in_pieces()
        self._longest = max(map(len, self.phrases))

    def split(self, chunk: str) -> list[str]:
        """The words of a chunk, which add up to it. The chunk holds no white space and at least one character."""
        if chunk in self.exceptions:
            return self._joined(list(self.exceptions[chunk]))
        return self._joined(self._split(chunk, self.exceptions))

    def _exceptions_in_pieces(self) -> dict[tuple[str, ...], str]:
        """The exceptions that affixes would take apart, by what they would leave: they are put together again."""
        return {
            tuple(self._split(text, {})): text
            for text in sorted(self.exceptions)
            if self.prefix(text) or self.suffix(text) or next(self.infixes(text), None)
        }

    def _split(self, chunk: str, exceptions: dict[str, list[str]]) -> list[str]:
        middle, before, after = self._without_affixes(chunk, exceptions)
        if not middle:
            inside: list[str] = []
        elif middle in exceptions:
            inside = exceptions[middle]
        elif self._is_url(middle):
            inside = [middle]
        else:
            inside = self._split_infixes(middle)
        return [*before, *inside, *reversed(after)]

    def _without_affixes(self, text: str, exceptions: dict[str, list[str]]) -> tuple[str, list[str], list[str]]:
        """What is left of a chunk, the prefixes from the outside in, the suffixes from the outside in."""
        before: list[str] = []
        after: list[str] = []
        last_size = 0
        while text and len(text) != last_size and text not in exceptions:
            last_size = len(text)
            found = self.prefix(text)
            first = len(found[0]) if found else 0
            if first and text[first:] in exceptions:
                before.append(text[:first])
                text = text[first:]
                break
            last = self._suffix_of(text[first:])
            if last and text[:-last] in exceptions:
                after.append(text[-last:])
                text = text[:-last]
                break
            if first and last and first + last <= len(text):
                before.append(text[:first])
                after.append(text[-last:])
                text = text[first:-last]
            elif first:
                before.append(text[:first])
                text = text[first:]
            elif last:
                after.append(text[-last:])
                text = text[:-last]
        return text, before, after

    def _suffix_of(self, text: str) -> int:
        """Characters of a suffix, or 0. All but a row of full stops are short, so that the end alone is searched."""
        found = self.suffix(text, 0 if text.endswith("..") else max(0, len(text) - LONGEST_SUFFIX))
        return len(found[0]) if found else 0

    def _split_infixes(self, text: str) -> list[str]:
        pieces, start = [], 0
        for found in self.infixes(text):
            if found.start() == 0:
                continue
            if found.start() != start:
                pieces.append(text[start : found.start()])
            if found.start() != found.end():
                pieces.append(found[0])
            start = found.end()
        if start < len(text):
            pieces.append(text[start:])
        return pieces

    def _joined(self, pieces: list[str]) -> list[str]:
        """Puts exceptions that affixes took apart together again: the longest first, then from the left."""
        if len(pieces) < 2:
            return pieces
        found = [
            (start, stop)
            for start in range(len(pieces))
            for stop in range(start + 1, min(len(pieces), start + self._longest) + 1)
            if tuple(pieces[start:stop]) in self.phrases
        ]
        if not found:
            return pieces
        seen: set[int] = set()
        chosen: dict[int, int] = {}
        for start, stop in sorted(found, key=lambda span: (span[0] - span[1], span[0])):
            if start not in seen and stop - 1 not in seen:
                chosen[start] = stop
            seen.update(range(start, stop))
        joined: list[str] = []
        place = 0
        while place < len(pieces):
            stop = chosen.get(place, place + 1)
            inside = pieces[place:stop]
            joined += self.exceptions.get("".join(inside), inside) if place in chosen else inside
            place = stop
        return joined


@cache
def english_pieces() -> EnglishPieces:
    """The rules, compiled."""
    return EnglishPieces()

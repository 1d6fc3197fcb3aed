"""What a tokenizer's trainer is given: pieces of the texts, so small that memory is bounded, cut where words end.

The trainer counts words (what the byte-level pre-tokenizer makes of a text) and then merges within them. It holds
every distinct word, at `WORD_COST` and `BYTE_COST`, and takes time that is quadratic in a word's length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

PIECE = 2**14  # bytes of text given to the trainer at once; it holds 256 of them
LONGEST_WORD = 1000  # bytes; longer words are cut
WORD_COST, BYTE_COST = 300, 130  # bytes of memory for a distinct word and for each of its bytes, at most: measured
MEMORY_BYTES = 450_000_000  # for distinct words, by default: 64 MB of English need less, 4 MB of Chinese as much

# White space after something else begins a word for certain, whatever comes before and after.
_WORD_END = re.compile(r"\S(?=[ \n\t\r])")
_BLANKS = re.compile(rf"\s{{{LONGEST_WORD // 4}}}")
_ROUGH_WORDS = re.compile(r"[^\W\d_]+|\d+|[^\w\s]+|_+")
LONGEST_CONTRACTION = 3  # characters: 'll
MOST_CHUNKS, LONG_CHUNK = 2**17, 64  # that are remembered as seen; characters of one that isn't


class TrainingText:
    """Pieces of `texts` for a trainer, no word of which is longer than `LONGEST_WORD`.

    They end when their distinct words take about `memory_bytes`: `given` says how many bytes were given until then.
    """

    def __init__(self, texts: Iterable[bytes], *, memory_bytes: int = MEMORY_BYTES) -> None:
        self.given = 0
        self.stopped = False
        self._texts = texts
        self._room = memory_bytes
        self._words: set[str] = set()
        self._chunks: set[str] = set()  # between white space: a cache, as most come again

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            for piece in pieces_of(text):
                if self.stopped:
                    return
                yield piece
                self._account(piece)

    def _account(self, piece: str) -> None:
        """Takes the distinct words of `piece`, more or less as the trainer cuts them, off the room that is left."""
        self.given += len(piece.encode())
        chunks = set(piece.split()) - self._chunks
        self._chunks.update(chunk for chunk in chunks if len(chunk) < LONG_CHUNK)
        if len(self._chunks) > MOST_CHUNKS:
            self._chunks.clear()
        fresh = set(_ROUGH_WORDS.findall(" ".join(chunks))) - self._words
        self._words |= fresh
        self._room -= sum(WORD_COST + BYTE_COST * len(word.encode()) for word in fresh)
        self.stopped = self._room < 0


def whole_characters(text: bytes) -> bytes:
    """`text` without the bytes of a character that is cut at its end."""
    for last in range(len(text) - 1, max(len(text) - 5, -1), -1):
        if text[last] & 0xC0 != 0x80:  # where the last character begins
            size = 1 if text[last] < 0x80 else 2 if text[last] < 0xE0 else 3 if text[last] < 0xF0 else 4
            return text if last + size <= len(text) else text[:last]
    return text


def pieces_of(text: bytes) -> Iterator[str]:
    """Pieces that make up the UTF-8 `text`, cut where words end, or in words longer than `LONGEST_WORD`."""
    start = 0
    while start < len(text):
        piece = whole_characters(text[start : start + PIECE])
        decoded = piece.decode()
        if start + len(piece) < len(text):
            decoded = decoded[: _last_word_end(decoded)]
        start += len(decoded.encode())
        yield from _without_long_words(decoded)


def _last_word_end(text: str) -> int:
    """Where to cut `text`, which goes on: after its last word that ends for certain."""
    tail = text[-LONGEST_WORD:]
    ends = [found.end() for found in _WORD_END.finditer(tail)]
    if ends:
        return len(text) - len(tail) + ends[-1]
    # Words are found from left to right. How one ends near the end, or before white space, may depend on what follows.
    last = len(text) - LONGEST_CONTRACTION
    starts = [start for _, (start, _) in _words(text) if 0 < start <= last and not text[start - 1].isspace()]
    return starts[-1] if starts else len(text)


def _without_long_words(text: str) -> Iterator[str]:
    longest = max(map(len, text.split()), default=0)
    if longest <= LONGEST_WORD // 4 and not _BLANKS.search(text):  # a character has at most 4 bytes
        yield text
        return
    begin = 0
    for word, (start, _) in _words(text):
        if len(word) > LONGEST_WORD:  # in bytes: the pre-tokenizer writes each as a character
            for cut in _cuts(text, start, len(word)):
                yield text[begin:cut]
                begin = cut
    yield text[begin:]


def _cuts(text: str, start: int, size: int) -> Iterator[int]:
    """Places in `text` that cut a word of `size` bytes from `start` into words of at most `LONGEST_WORD`."""
    room, place = LONGEST_WORD, start
    while size > 0:
        width = len(text[place].encode())
        if width > room:
            yield place
            room = LONGEST_WORD
        room -= width
        size -= width
        place += 1


def _words(text: str) -> list[tuple[str, tuple[int, int]]]:
    """The words of `text`, and where they are (characters)."""
    return list(byte_level().pre_tokenize_str(text))


def byte_level() -> Any:
    """The pre-tokenizer of the tokenizers that are trained here."""
    from tokenizers import pre_tokenizers

    return pre_tokenizers.ByteLevel(add_prefix_space=False)

"""Lists that the user names: files of one entry to a line, and a finder of all their words in a text in one go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from trainer.data.text.libraries import library
from trainer.errors import InputError


def read_list(file: str, key: str) -> list[str]:
    """The lines of a file without white space around them, but for blank ones. InputError, which names the key."""
    path = Path(file).expanduser()
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{key}: {path} can't be read as UTF-8 text ({error}).") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise InputError(f"{key}: {path} lists nothing; write one entry to a line, or leave it out.")
    return found


class WordFinder:
    """Finds words of a list in texts by an Aho–Corasick automaton: of what overlaps the first, then the longest.

    With `whole_words` only those that stand between characters that aren't of words, as a regular expression's \\w.
    """

    def __init__(self, words: Iterable[str], key: str, *, whole_words: bool = False) -> None:
        self._automaton = library("ahocorasick_rs", key).AhoCorasick(sorted(set(words)))
        self._whole_words = whole_words

    def find(self, text: str) -> Iterator[str]:
        """The words in a text, in order."""
        return (text[start:stop] for start, stop in self.spans(text))

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Where they begin and end."""
        matches = self._automaton.find_matches_as_indexes(text, overlapping=True)
        end = 0
        for start, length in sorted((start, start - stop) for _, start, stop in matches):
            stop = start - length
            if start >= end and not (self._whole_words and _inside_a_word(text, start, stop)):
                yield start, stop
                end = stop


def _inside_a_word(text: str, start: int, stop: int) -> bool:
    return (start > 0 and _of_words(text[start - 1])) or (stop < len(text) and _of_words(text[stop]))


def _of_words(letter: str) -> bool:
    return letter == "_" or letter.isalnum()

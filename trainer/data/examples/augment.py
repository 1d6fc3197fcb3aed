"""Changed copies of labelled texts, for training alone: words left out, swapped, or put as a synonym.

"Easy data augmentation" (Wei and Zou 2019, arXiv:1901.11196, section 2), with synonyms of a given table, and without
random insertion. What becomes of a text is a function of (seed, text, number of the copy).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config.data import Augment
from trainer.data.examples.formats import from_bytes, to_bytes
from trainer.data.tokens.order import derive_key
from trainer.errors import InputError

LARGEST_TABLE = 256 * 2**20  # bytes
# A word, or a letter of a script without blanks; with what is around it a text is put together again
WORD = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af]|[^\W\u2e80-\u9fff\uac00-\ud7af]+(?:['’-][^\W\u2e80-\u9fff]+)*")

Synonyms = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Augmentation:
    """`settings`, the table of `synonyms` by word in lower case, and the seed of prepare."""

    settings: Augment
    synonyms: Synonyms
    seed: int

    def copies(self, content: bytes) -> Iterator[bytes]:
        """Changed copies of a stored example, those that are neither it nor each other."""
        example, seen = from_bytes(content), {content}
        for number in range(self.settings.copies):
            key = derive_key("augment", self.seed, example["text"], number)
            copy = to_bytes(
                example | {"text": self.change(example["text"], np.random.Generator(np.random.Philox(key=key)))}
            )
            if copy not in seen:
                seen.add(copy)
                yield copy

    def change(self, text: str, draw: np.random.Generator) -> str:
        """A text with synonyms, then swaps, then words left out; one word stays at least."""
        places = [(found.start(), found.end()) for found in WORD.finditer(text)]
        words: list[str | None] = [text[start:stop] for start, stop in places]
        self._replace(words, draw)
        self._swap(words, draw)
        self._delete(words, draw)
        return _joined(text, places, words)

    def _replace(self, words: list[str | None], draw: np.random.Generator) -> None:
        known = [place for place, word in enumerate(words) if self.synonyms.get(str(word).lower())]
        count = min(len(known), round(self.settings.replace * len(words)))
        for place in draw.permutation(known)[:count].tolist():
            others = self.synonyms[str(words[place]).lower()]
            words[place] = _cased(others[int(draw.integers(len(others)))], str(words[place]))

    def _swap(self, words: list[str | None], draw: np.random.Generator) -> None:
        for _ in range(round(self.settings.swap * len(words)) if len(words) > 1 else 0):
            one, two = draw.choice(len(words), 2, replace=False).tolist()
            words[one], words[two] = words[two], words[one]

    def _delete(self, words: list[str | None], draw: np.random.Generator) -> None:
        gone = draw.random(len(words)) < self.settings.delete
        if len(words) and gone.all():
            gone[int(draw.integers(len(words)))] = False
        for place in np.flatnonzero(gone).tolist():
            words[place] = None


def _joined(text: str, places: list[tuple[int, int]], words: list[str | None]) -> str:
    """A text with other words in its places; of one that is left out, the blank before it goes too."""
    parts, last = [], 0
    for (start, stop), word in zip(places, words, strict=True):
        between = text[last:start]
        parts.append(between.rstrip(" ") if word is None else between + word)
        last = stop
    return ("".join(parts) + text[last:]).strip()


def _cased(word: str, like: str) -> str:
    """A synonym as the word that it stands for is written."""
    return word.upper() if like.isupper() and len(like) > 1 else word.capitalize() if like[:1].isupper() else word


def read_synonyms(path: str | None) -> dict[str, tuple[str, ...]]:
    """The table of a file: each word of a line with the others. InputError where it can't be read."""
    if path is None:
        return {}
    file = Path(path).expanduser()
    try:
        if file.stat().st_size > LARGEST_TABLE:
            raise InputError(f"data.augment.synonyms={path}: more than {LARGEST_TABLE:,} bytes; give a smaller table.")
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"data.augment.synonyms={path}: can't be read as UTF-8 text ({error}).") from error
    table: dict[str, dict[str, None]] = {}
    for number, line in enumerate(lines, start=1):
        words = [word.strip() for word in line.split("\t") if word.strip()]
        if line.strip() and len(words) < 2:
            raise InputError(
                f"data.augment.synonyms={path}, line {number}: two words or more, separated by tabs, make a line."
            )
        for word in words:
            table.setdefault(word.lower(), {}).update({other: None for other in words if other.lower() != word.lower()})
    return {word: tuple(others) for word, others in table.items()}


def augmentation_of(settings: Augment, seed: int) -> Augmentation | None:
    """What a configuration asks for; None where that is nothing."""
    return Augmentation(settings, read_synonyms(settings.synonyms), seed) if settings.copies else None


def augmentation_identity(settings: Augment) -> dict[str, Any]:
    """What the table of synonyms holds, as part of what decides the shards."""
    table = read_synonyms(settings.synonyms) if settings.copies else {}
    return {"data.augment.synonyms": derive_key(*sorted(table.items()))} if table else {}

"""Where the codes of modalities stand in a vocabulary: the tokenizer itself says it, by the names of its tokens.

Code 17 of audio is <|audio:17|>, of its third codebook <|audio:2:17|>; a stretch of codes stands between <|audio|> and
<|/audio|>. They are special tokens with ids that follow each other, so that whoever has the tokenizer knows the ranges.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from trainer.config.modalities import Modality
from trainer.data.tokens.tokenizer import Tokenizer
from trainer.errors import InputError

_CODE = re.compile(r"<\|([a-z][a-z0-9_]*):(?:(\d{1,4}):)?(\d{1,7})\|>")
SHOWN_CODES = 12


@dataclass(frozen=True)
class CodeRange:
    """Ids [first, first + books · codes) are codes, one codebook after the other; `begin` and `end` stand around."""

    first: int
    codes: int
    books: int
    begin: int
    end: int

    @property
    def stop(self) -> int:
        """One more than the last id."""
        return self.first + self.codes * self.books

    def to_json(self) -> dict[str, int]:
        """For people and other programs: manifest.json and config.json have it."""
        return dict(vars(self))

    def shown(self, token: int) -> str:
        """A code as people write it, with its codebook where there are several."""
        book, code = divmod(token - self.first, self.codes)
        return f"{book}:{code}" if self.books > 1 else str(code)


def tokens_of(modalities: Mapping[str, Modality]) -> Iterator[str]:
    """The special tokens of modalities, in the order of their ids."""
    for name, modality in sorted(modalities.items()):
        yield from (f"<|{name}|>", f"<|/{name}|>")
        for number in range(modality.size):
            book, code = divmod(number, modality.codes)
            yield f"<|{name}:{book}:{code}|>" if modality.books > 1 else f"<|{name}:{code}|>"


def with_modalities(tokenizer: Tokenizer, modalities: Mapping[str, Modality]) -> Tokenizer:
    """The tokenizer with the tokens of modalities. InputError where it has some of them, or others, already."""
    if not modalities:
        return tokenizer
    extended = tokenizer.with_special(tokens_of(modalities))
    found = find_ranges(extended.special_ids)
    for name, modality in modalities.items():
        if name not in found or (found[name].codes, found[name].books) != (modality.codes, modality.books):
            raise InputError(
                f"data.tokenizer.path: {tokenizer.name} has tokens of the modality {name}, but not as data.modalities."
                f"{name} describes it; use the same sizes, or another name."
            )
    return extended


def find_ranges(special_ids: Mapping[str, int]) -> dict[str, CodeRange]:
    """The modalities of a vocabulary, by name; what isn't a whole range with its ends is none."""
    by_name: dict[str, dict[int, tuple[int, int]]] = {}
    for token, number in special_ids.items():
        found = _CODE.fullmatch(token)
        if found:
            by_name.setdefault(found[1], {})[number] = (int(found[2] or 0), int(found[3]))
    ranges = {}
    for name, places in by_name.items():
        first, (books, codes) = min(places), (1 + max(column) for column in zip(*places.values(), strict=True))
        begin, end = special_ids.get(f"<|{name}|>"), special_ids.get(f"<|/{name}|>")
        if books * codes != len(places) or begin is None or end is None:
            continue
        if all(places.get(first + number) == divmod(number, codes) for number in range(len(places))):
            ranges[name] = CodeRange(first, codes, books, begin, end)
    return dict(sorted(ranges.items()))


def ranges_as_json(ranges: Mapping[str, CodeRange]) -> dict[str, dict[str, int]]:
    """By name."""
    return {name: each.to_json() for name, each in ranges.items()}


def as_text(tokenizer: Any, tokens: Sequence[int], ranges: Mapping[str, CodeRange]) -> str:
    """Tokens for people: text as text, stretches of codes by their number and the first few."""

    def modality_of(token: int) -> str | None:
        return next((name for name, each in ranges.items() if each.first <= token < each.stop), None)

    parts = []
    for name, stretch in groupby(tokens, key=modality_of):
        ids = list(stretch)
        if name is None:
            parts.append(tokenizer.decode(ids))
            continue
        first = " ".join(map(ranges[name].shown, ids[:SHOWN_CODES]))
        parts.append(f"[{name}, {len(ids):,} codes: {first}{' …' * (len(ids) > SHOWN_CODES)}]")
    return "".join(parts)

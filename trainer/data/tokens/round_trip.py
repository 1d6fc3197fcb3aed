"""What of a text doesn't come back from its ids: characters that a tokenizer doesn't know, drops or changes."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator

from trainer.data.tokens.tokenizer import Tokenizer
from trainer.machine.terminal import one_line

PIECE = 2**10  # characters whose losses are counted together
SHOWN = 40  # characters of an example


class Loss:
    """Bytes that were tried, and how many of them didn't come back, with the first example.

    What is only written otherwise, and no loss, is let pass: a space before a text, and the other form of a character
    that Unicode holds for the same (é in one or two code points).
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tried = 0
        self.lost = 0
        self.example = ""
        self._tokenizer = tokenizer
        self._unknown = _unknown_id(tokenizer)

    @property
    def share(self) -> float:
        """Of the bytes that were tried, those that didn't come back."""
        return self.lost / max(1, self.tried)

    def add(self, text: str, ids: list[int]) -> None:
        """Counts a text and the ids that it got."""
        self.tried += len(text.encode())
        back = self._tokenizer.decode([token for token in ids if token != self._unknown])
        if _same(text, back):
            return
        for piece in _pieces(text):
            ids = self._tokenizer.encode(piece)
            back = self._tokenizer.decode([token for token in ids if token != self._unknown])
            lost = 0 if _same(piece, back) else _missing(piece, back)
            self.lost += lost
            if lost and not self.example:
                self.example = _example(piece, self._tokenizer.decode(ids))


def _unknown_id(tokenizer: Tokenizer) -> int | None:
    """The id that stands for what the tokenizer doesn't know, if it has one."""
    model = tokenizer.engine.model
    token = getattr(model, "unk_token", None)
    return None if token is None else tokenizer.engine.token_to_id(token)


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), PIECE):
        yield text[start : start + PIECE]


def _same(text: str, back: str) -> bool:
    return text == back or _plain(text) == _plain(back)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).removeprefix(" ")


def _missing(text: str, back: str) -> int:
    """Bytes of the characters of `text` that `back` has fewer of; where they stand isn't looked at.

    Where `back` has more blanks than `text`, the decoder puts them where it cuts words: then none of them came back.
    """
    wanted, given = Counter(_plain(text)), Counter(_plain(back))
    missing = wanted - given
    if given[" "] > wanted[" "]:
        missing[" "] = wanted[" "]
    return sum(len(character.encode()) * count for character, count in missing.items())


def _example(text: str, back: str) -> str:
    """Where both begin to differ."""
    first = next(
        (place for place, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), min(len(text), len(back))
    )
    begin = max(0, first - SHOWN // 4)
    return f'"{one_line(text[begin : begin + SHOWN])}" comes back as "{one_line(back[begin : begin + SHOWN])}"'

"""What a token stands for, to be read: byte-level tokens as text, bytes that are no text as \\xNN."""

from __future__ import annotations

import json
from functools import lru_cache

from trainer.data.tokens.tokenizer import Tokenizer


class TokenTexts:
    """Texts of the tokens of a vocabulary, by id."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._engine = tokenizer.engine
        decoder = json.loads(tokenizer.content).get("decoder")
        self._byte_level = "ByteLevel" in json.dumps(decoder)
        self._special = set(tokenizer.special_ids.values())

    def raw(self, number: int) -> str:
        """The token as the vocabulary has it; for an id beyond it, as the padding of an embedding is, empty."""
        return str(self._engine.id_to_token(number) or "")

    def text(self, number: int) -> str:
        """What it stands for."""
        raw = self.raw(number)
        if number in self._special:
            return raw
        if not self._byte_level:
            return raw.replace("▁", " ")
        by_letter = _byte_of_letter()
        if not all(letter in by_letter for letter in raw):
            return raw  # an added token
        return bytes(by_letter[letter] for letter in raw).decode("utf-8", "backslashreplace")


@lru_cache
def _byte_of_letter() -> dict[str, int]:
    """GPT-2's letters for bytes (Radford et al. 2019, encoder.py): printable ones stand for themselves."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}

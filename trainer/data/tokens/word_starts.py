"""Which tokens of a vocabulary begin a word: what whole-word masking goes by."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from trainer.data.tokens.tokenizer import load_tokenizer

FIRST_CJK = 0x2E80  # from here on, letters are words of their own in most scripts that have no blanks
BLANKS = "\u2581\u0120\u010a\u0109"  # what stands for white space in pieces of SentencePiece and byte-level BPE


def word_starts(tokenizer_file: Path, end_of_text: str | None = None) -> np.ndarray:
    """(vocabulary,) bool: whether a token begins a word, as far as the token alone shows it.

    WordPiece marks what goes on (##); others mark the blank before. A piece without either goes on if it begins with a
    letter or digit of a script that has blanks, or in the middle of a character.
    """
    tokenizer = load_tokenizer(tokenizer_file, end_of_text)
    kind = json.loads(tokenizer.content)["model"].get("type")
    prefix = json.loads(tokenizer.content)["model"].get("continuing_subword_prefix") if kind == "WordPiece" else None
    starts = np.ones(tokenizer.vocab_size, bool)
    for token, number in tokenizer.engine.get_vocab(with_added_tokens=True).items():
        if prefix:
            starts[number] = not token.startswith(prefix)
        elif token[:1] not in BLANKS:
            text = tokenizer.engine.decode([number], skip_special_tokens=False)
            starts[number] = not _goes_on(text)
    return starts


def _goes_on(text: str) -> bool:
    first = text[:1]
    return first == "\ufffd" or (first.isalnum() and ord(first) < FIRST_CJK)

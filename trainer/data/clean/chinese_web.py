"""ChineseWebText's rules (Chen et al. 2023, "ChineseWebText: Large-scale High-quality Chinese Web Text Extracted with
Effective Evaluation Model", section 3.1)."""

from __future__ import annotations

import numpy as np

from trainer.config.clean import ChineseWeb
from trainer.data.clean.document import CleanedDocument, Limits, Verdict
from trainer.data.clean.repeated_runs import repeated_share
from trainer.data.clean.word_list import WordFinder, read_list
from trainer.data.clean.words import WordSpans, splitter

NAME = "chinese_web"
RUN = 13  # characters


class ChineseWebStage:
    """Rejects texts that are short, of short lines, hardly Chinese, traditional, coarse, or that repeat themselves."""

    @staticmethod
    def limits_of(settings: ChineseWeb) -> Limits:
        """The rules, in order."""
        return Limits(
            NAME,
            {
                "characters": (settings.lowest_characters, None),
                "line_length": (settings.lowest_line_length, None),
                "han": (settings.lowest_han, None),
                "traditional": (None, settings.highest_traditional),
                "sensitive_words": (None, settings.highest_sensitive_words),
                "repeated_grams": (None, settings.highest_repeated_grams),
            },
        )

    def __init__(self, settings: ChineseWeb) -> None:
        self._limits = self.limits_of(settings)
        self._characters = splitter("characters")
        key = f"data.clean.{NAME}.sensitive_words"
        words = [word.lower() for file in settings.sensitive_words for word in read_list(file, key)]
        self._sensitive = WordFinder(words, key) if words else None

    def __call__(self, document: CleanedDocument) -> Verdict | None:
        """The first rule that is broken."""
        counted = document.counted
        lines = counted.lines
        kinds, rows = counted.kinds, max(1, lines["rows"])
        sensitive = sum(1 for _ in self._sensitive.find(counted.text.lower())) if self._sensitive else 0
        spans: WordSpans = self._characters.split(counted.text, counted.points)
        return self._limits.verdict(
            document,
            {
                "characters": lines["characters"],
                "line_length": lines["row_characters"] / rows,
                "han": kinds["han"] / max(1, lines["characters"]),
                "traditional": kinds["traditional"] / max(1, kinds["traditional"] + kinds["simplified"]),
                "sensitive_words": sensitive / rows,
                "repeated_grams": repeated_share(np.asarray(counted.points), spans, RUN),
            },
        )

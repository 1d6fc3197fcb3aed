"""ChineseWebText's rules (Chen et al. 2023, "ChineseWebText: Large-scale High-quality Chinese Web Text Extracted with
Effective Evaluation Model", section 3.1)."""

from __future__ import annotations

import numpy as np

from trainer.config.clean import ChineseWeb
from trainer.data.clean.document import CleanedDocument, Limits, Verdict
from trainer.data.clean.repeated_runs import repeated_share
from trainer.data.clean.words import WordSpans, splitter

NAME = "chinese_web"
RUN = 13  # characters


class ChineseWebStage:
    """Rejects texts that are short, of short lines, hardly Chinese, or say the same again and again."""

    def __init__(self, settings: ChineseWeb) -> None:
        self._limits = Limits(
            NAME,
            {"repeated_grams": settings.highest_repeated_grams},
            {
                "characters": settings.lowest_characters,
                "line_length": settings.lowest_line_length,
                "han": settings.lowest_han,
            },
        )
        self._characters = splitter("characters")

    def __call__(self, document: CleanedDocument) -> Verdict | None:
        """The first rule that is broken."""
        counted = document.counted
        lines = counted.lines
        spans: WordSpans = self._characters.split(counted.text, counted.points)
        return self._limits.verdict(
            document,
            {
                "characters": lines["characters"],
                "line_length": lines["row_characters"] / max(1, lines["rows"]),
                "han": counted.kinds["han"] / max(1, lines["characters"]),
                "repeated_grams": repeated_share(np.asarray(counted.points), spans, RUN),
            },
        )

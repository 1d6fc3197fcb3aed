"""Rules for source code (Li et al. 2023, "StarCoder: may the source be with you!", section 3.1)."""

from __future__ import annotations

import re

from trainer.config.clean import Code
from trainer.data.clean.document import CleanedDocument, Limits, Verdict

NAME = "code"
GENERATED = re.compile(
    r"auto-?generated|automatically generated|generated (?:by|from|with)|do not (?:edit|modify)", re.IGNORECASE
)
FIRST_LINES = 5


class CodeStage:
    """Rejects data, minified and generated files."""

    @staticmethod
    def limits_of(settings: Code) -> Limits:
        """The rules, in order."""
        return Limits(
            NAME,
            {
                "line_length": (None, settings.highest_line_length),
                "mean_line_length": (None, settings.highest_mean_line_length),
                "alphabetic": (settings.lowest_alphabetic, None),
                "generated": (None, 0 if settings.generated else None),
            },
        )

    def __init__(self, settings: Code) -> None:
        self._limits = self.limits_of(settings)

    def __call__(self, document: CleanedDocument) -> Verdict | None:
        """The first rule that is broken."""
        lines = document.counted.lines
        characters = max(1, lines["characters"])
        head = "\n".join(document.text[:4096].splitlines()[:FIRST_LINES])
        return self._limits.verdict(
            document,
            {
                "line_length": lines["longest_line"],
                "mean_line_length": lines["characters"] / max(1, lines["lines"]),
                "alphabetic": document.counted.kinds["alphabetic"] / characters,
                "generated": int(GENERATED.search(head) is not None),
            },
        )

"""FineWeb's own rules, as datatrove's FineWebQualityFilter has them: same values, same order."""

from __future__ import annotations

from trainer.config.clean import FinewebQuality
from trainer.data.clean.document import CleanedDocument, Limits, Verdict
from trainer.data.clean.line_signals import SHORT, line_signals

NAME = "fineweb_quality"


class FinewebQualityStage:
    """Rejects lists, menus and texts whose lines come again."""

    @staticmethod
    def limits_of(settings: FinewebQuality) -> Limits:
        """The rules, in order."""
        return Limits(
            NAME,
            {
                "terminal_lines": (settings.lowest_terminal_lines, None),
                "short_lines": (None, settings.highest_short_lines),
                "duplicate_characters": (None, settings.highest_duplicate_characters),
                "newlines": (None, settings.highest_newlines),
            },
        )

    def __init__(self, settings: FinewebQuality) -> None:
        self._limits = self.limits_of(settings)
        self._short = settings.short_line

    def __call__(self, document: CleanedDocument) -> Verdict | None:
        """The first rule that is broken."""
        counted = document.counted
        lines = counted.lines if self._short == SHORT else line_signals(counted.points, short=self._short)
        rows = max(1, lines["rows"])
        return self._limits.verdict(
            document,
            {
                "terminal_lines": lines["terminal_rows"] / rows,
                "short_lines": lines["short_rows"] / rows,
                "duplicate_characters": lines["duplicate_row_characters"]
                / max(1, lines["characters"] - lines["newlines"]),
                "newlines": lines["newlines"] / max(1, counted.word_count),
            },
        )

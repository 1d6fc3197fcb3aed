"""Lengths and shares of kinds of characters: bounds of one's own, all off by default."""

from __future__ import annotations

from trainer.config.clean import Ratios
from trainer.data.clean.document import CleanedDocument, Limits, Verdict

NAME = "ratios"


class RatiosStage:
    """Rejects texts beyond bounds."""

    @staticmethod
    def limits_of(settings: Ratios) -> Limits:
        """The rules, in order."""
        return Limits(
            NAME,
            {
                "characters": (settings.lowest_characters, settings.highest_characters),
                "alphabetic": (settings.lowest_alphabetic, None),
                "digits": (None, settings.highest_digits),
                "uppercase": (None, settings.highest_uppercase),
                "spaces": (None, settings.highest_spaces),
                "han": (settings.lowest_han, None),
                "symbols": (None, settings.highest_symbols),
                "longest_line": (None, settings.highest_longest_line),
            },
        )

    def __init__(self, settings: Ratios) -> None:
        self._limits = self.limits_of(settings)

    def __call__(self, document: CleanedDocument) -> Verdict | None:
        """The first bound that is broken."""
        lines, kinds = document.counted.lines, document.counted.kinds
        characters = max(1, lines["characters"])
        values: dict[str, float] = {"characters": lines["characters"]}
        values |= {kind: kinds[kind] / characters for kind in ("alphabetic", "digits", "uppercase", "spaces", "han")}
        values["symbols"] = (lines["characters"] - kinds["alphanumeric"] - kinds["spaces"]) / characters
        values["longest_line"] = lines["longest_line"]
        return self._limits.verdict(document, values)

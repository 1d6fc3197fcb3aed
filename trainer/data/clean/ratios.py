"""Lengths and shares of kinds of characters: bounds of one's own, all off by default."""

from __future__ import annotations

from trainer.config.clean import Ratios
from trainer.data.clean.document import CleanedDocument, Limits, Verdict

NAME = "ratios"


class RatiosStage:
    """Rejects texts beyond bounds."""

    def __init__(self, settings: Ratios) -> None:
        self._limits = Limits(
            NAME,
            {
                "characters": settings.highest_characters,
                "digits": settings.highest_digits,
                "uppercase": settings.highest_uppercase,
                "symbols": settings.highest_symbols,
                "spaces": settings.highest_spaces,
                "longest_line": settings.highest_longest_line,
            },
            {
                "characters": settings.lowest_characters,
                "alphabetic": settings.lowest_alphabetic,
                "han": settings.lowest_han,
            },
        )

    def __call__(self, document: CleanedDocument) -> Verdict | None:
        """The first bound that is broken."""
        lines, kinds = document.counted.lines, document.counted.kinds
        characters = max(1, lines["characters"])
        values: dict[str, float] = {"characters": lines["characters"]}
        values |= {kind: kinds[kind] / characters for kind in ("alphabetic", "digits", "uppercase", "spaces", "han")}
        values["symbols"] = (lines["characters"] - kinds["alphanumeric"] - kinds["spaces"]) / characters
        values["longest_line"] = lines["longest_line"]
        return self._limits.verdict(document, values)

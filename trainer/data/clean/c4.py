"""C4's rules, as datatrove's C4QualityFilter has them: same values, same order. Sentences are counted as English.

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", section 2.2.
"""

from __future__ import annotations

import re

from trainer.config.clean import C4, C4Paragraphs
from trainer.data.clean import c4_lines
from trainer.data.clean.c4_lines import CURLY, ELLIPSIS, JAVASCRIPT, LOREM, POLICIES, SQUARE, TERMINAL, line_table
from trainer.data.clean.document import CleanedDocument, Verdict
from trainer.data.clean.english.sentences import count_sentences

NAME = "c4"
PARAGRAPHS_NAME = "c4_paragraphs"
CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
ENDS = (".", "?", "!", '"', "'")


class C4Stage:
    """Takes lines out, and rejects what is no prose after that."""

    def __init__(self, settings: C4) -> None:
        self._settings = settings
        self._longest = settings.longest_word if settings.longest_word is not None else float("inf")
        self._words = settings.lowest_words or 0
        self._dropped = JAVASCRIPT * settings.javascript | POLICIES * settings.policies

    def __call__(self, document: CleanedDocument) -> Verdict | None:
        """Changes the text to the lines that stay."""
        settings, text = self._settings, document.text
        kept: list[str] = []
        sentences, enough = 0, settings.lowest_sentences or 0
        table = line_table(document.counted.points).tolist()
        for start, stop, flags, words, longest in table:
            if longest > self._longest:
                continue
            line = text[start:stop]
            if flags & SQUARE and settings.citations:
                line, flags = self._without_citations(line, flags)
            if settings.terminal_punctuation and (not flags & TERMINAL or flags & ELLIPSIS):
                continue
            if words < self._words:
                continue
            if flags & LOREM and settings.lorem_ipsum:
                return Verdict(f"{NAME}.lorem_ipsum", 1, 0)
            if flags & JAVASCRIPT and settings.javascript:
                continue
            if flags & CURLY and settings.curly_brackets:
                return Verdict(f"{NAME}.curly_brackets", 1, 0)
            if flags & self._dropped:
                continue
            if sentences < enough:
                sentences += count_sentences(line, enough)
            kept.append(line)
        document.signals[f"{NAME}.sentences"] = min(sentences, enough)
        if sentences < enough:
            return Verdict(f"{NAME}.sentences", sentences, enough)
        document.change("\n".join(kept).strip(), f"{NAME}: lines taken out or stripped")
        return None

    def _without_citations(self, line: str, flags: int) -> tuple[str, int]:
        """A line without citations, and what is true of it then."""
        shorter = CITATION.sub("", line)
        if shorter == line:
            return line, flags
        kept = flags & ~(TERMINAL | ELLIPSIS | CURLY | 0xFF)
        lower = shorter.lower()
        phrases = sum(1 << bit for bit, phrase in enumerate(c4_lines.PHRASES) if phrase in lower)
        ends = TERMINAL * shorter.endswith(ENDS) | ELLIPSIS * shorter.endswith("...")
        return shorter, kept | ends | phrases | CURLY * ("{" in shorter)


class C4ParagraphsStage:
    """Rejects texts of too few long lines, as datatrove's C4ParagraphFilter does."""

    def __init__(self, settings: C4Paragraphs) -> None:
        self._settings = settings

    def __call__(self, document: CleanedDocument) -> Verdict | None:
        """Counts lines that are long enough."""
        long = sum(len(line) >= self._settings.length for line in document.text.split("\n"))
        document.signals[f"{PARAGRAPHS_NAME}.lines"] = long
        return Verdict(f"{PARAGRAPHS_NAME}.lines", long, self._settings.lines) if long < self._settings.lines else None

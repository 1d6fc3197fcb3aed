"""C4's rules, as datatrove's C4QualityFilter has them: same values, same order. Sentences are counted as English.

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", section 2.2.
"""

from __future__ import annotations

import re

import numpy as np

from trainer.config.clean import C4, C4Paragraphs
from trainer.data.clean import c4_lines
from trainer.data.clean.c4_lines import CURLY, ELLIPSIS, JAVASCRIPT, LOREM, POLICIES, SQUARE, TERMINAL, line_table
from trainer.data.clean.document import CleanedDocument, Counted, Limits, Verdict
from trainer.data.clean.english.sentences import count_sentences

NAME = "c4"
PARAGRAPHS_NAME = "c4_paragraphs"
CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
ALL = 2**31  # sentences
LOOKED_AT = 0xFF | CURLY | SQUARE  # flags of lines that may not stay, or not as they are
ENDS = (".", "?", "!", '"', "'")


class C4Stage:
    """Takes lines out, and rejects what is no prose after that."""

    @staticmethod
    def limits_of(settings: C4) -> Limits:
        """The rules that reject, in order; of the first two the stage names what comes first in a text."""
        return Limits(
            NAME,
            {
                "lorem_ipsum": (None, 0 if settings.lorem_ipsum else None),
                "curly_brackets": (None, 0 if settings.curly_brackets else None),
                "sentences": (settings.lowest_sentences, None),
            },
        )

    def __init__(self, settings: C4) -> None:
        self._settings, self._limits = settings, self.limits_of(settings)
        self._longest = settings.longest_word if settings.longest_word is not None else float("inf")
        self._words = settings.lowest_words or 0
        self._dropped = JAVASCRIPT * settings.javascript | POLICIES * settings.policies

    def __call__(self, document: CleanedDocument) -> Verdict | None:
        """Changes the text to the lines that stay."""
        settings, text, counted, every = self._settings, document.text, document.counted, document.every_signal
        starts, stops, flags, words = self._worth_a_look(counted)
        lines: list[str | None] = [
            text[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        ]
        lorem, curly = 0, 0
        for place in np.flatnonzero(flags & LOOKED_AT).tolist():
            line, found, known = str(lines[place]), int(flags[place]), int(words[place])
            lines[place], words[place] = None, 0
            if found & SQUARE and settings.citations:
                line, found, known = self._without_citations(line, found, known)
                if settings.terminal_punctuation and (not found & TERMINAL or found & ELLIPSIS):
                    continue
            if found & LOREM:
                lorem = 1
                if settings.lorem_ipsum and not every:
                    return Verdict(f"{NAME}.lorem_ipsum", 1, 0)
            if found & JAVASCRIPT and settings.javascript:
                continue
            if found & CURLY:
                curly = 1
                if settings.curly_brackets and not every:
                    return Verdict(f"{NAME}.curly_brackets", 1, 0)
            if not found & self._dropped:
                lines[place], words[place] = line, known
        kept = [line for line in lines if line is not None]
        sentences, enough = 0, ALL if every else settings.lowest_sentences or 0
        for line in kept:
            if sentences >= enough:
                break
            sentences += count_sentences(line, enough)
        values = {"lorem_ipsum": lorem, "curly_brackets": curly, "sentences": sentences}
        verdict = self._limits.verdict(document, values)
        if verdict is not None and not every:
            return verdict
        document.change("\n".join(kept).strip(), f"{NAME}: lines taken out or stripped")
        if document.counted is not counted and (words >= 0).all():
            document.counted.word_count = int(words.sum())
        return verdict

    def _worth_a_look(self, counted: Counted) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Start, stop, flags and words (-1: not known) of lines that stay unless a phrase is in them."""
        table = line_table(counted.points)
        _start, _stop, flags, words, longest = table.T
        stays = (longest <= self._longest) & (words >= self._words)
        if self._settings.terminal_punctuation:
            citations = (flags & SQUARE != 0) & self._settings.citations
            stays &= (flags & (TERMINAL | ELLIPSIS) == TERMINAL) | citations
        starts, stops, flags, words, _longest = table[stays].T
        if "words" in counted.__dict__:
            begins = counted.words.starts
            return starts, stops, flags, np.searchsorted(begins, stops) - np.searchsorted(begins, starts)
        return starts, stops, flags, np.full(len(starts), -1)

    def _without_citations(self, line: str, flags: int, words: int) -> tuple[str, int, int]:
        """A line without citations, and what is true of it then."""
        shorter = CITATION.sub("", line)
        if shorter == line:
            return line, flags, words
        kept = flags & ~(TERMINAL | ELLIPSIS | CURLY | 0xFF)
        lower = shorter.lower()
        phrases = sum(1 << bit for bit, phrase in enumerate(c4_lines.PHRASES) if phrase in lower)
        ends = TERMINAL * shorter.endswith(ENDS) | ELLIPSIS * shorter.endswith("...")
        return shorter, kept | ends | phrases | CURLY * ("{" in shorter), -1


class C4ParagraphsStage:
    """Rejects texts of too few long lines, as datatrove's C4ParagraphFilter does."""

    @staticmethod
    def limits_of(settings: C4Paragraphs) -> Limits:
        """The rule."""
        return Limits(PARAGRAPHS_NAME, {"lines": (settings.lines, None)})

    def __init__(self, settings: C4Paragraphs) -> None:
        self._limits, self._length = self.limits_of(settings), settings.length

    def __call__(self, document: CleanedDocument) -> Verdict | None:
        """Counts lines that are long enough."""
        long = sum(len(line) >= self._length for line in document.text.split("\n"))
        return self._limits.verdict(document, {"lines": long})

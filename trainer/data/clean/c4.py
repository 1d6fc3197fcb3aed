"""C4's rules, as datatrove's C4QualityFilter has them: same values, same order. Sentences are counted as English.

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", section 2.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

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
        settings, text, counted = self._settings, document.text, document.counted
        kept: list[str] = []
        words_left, sentences, lorem, curly = 0, 0, 0, 0
        every = document.every_signal
        enough = ALL if every else settings.lowest_sentences or 0
        for start, stop, flags, words in self._worth_a_look(counted):
            line, known = text[start:stop], words
            if flags & SQUARE and settings.citations:
                line, flags, known = self._without_citations(line, flags, words)
                if settings.terminal_punctuation and (not flags & TERMINAL or flags & ELLIPSIS):
                    continue
            if flags & LOREM:
                lorem = 1
                if settings.lorem_ipsum and not every:
                    return Verdict(f"{NAME}.lorem_ipsum", 1, 0)
            if flags & JAVASCRIPT and settings.javascript:
                continue
            if flags & CURLY:
                curly = 1
                if settings.curly_brackets and not every:
                    return Verdict(f"{NAME}.curly_brackets", 1, 0)
            if flags & self._dropped:
                continue
            if sentences < enough:
                sentences += count_sentences(line, enough)
            kept.append(line)
            words_left = words_left + known if known >= 0 <= words_left else -1
        values = {"lorem_ipsum": lorem, "curly_brackets": curly, "sentences": sentences}
        verdict = self._limits.verdict(document, values)
        if verdict is not None and not every:
            return verdict
        document.change("\n".join(kept).strip(), f"{NAME}: lines taken out or stripped")
        if words_left >= 0 and document.counted is not counted:
            document.counted.word_count = words_left
        return verdict

    def _worth_a_look(self, counted: Counted) -> Iterator[list[int]]:
        """Lines that stay unless a phrase is in them: start, stop, flags, and words, or -1 where these aren't known."""
        table = line_table(counted.points)
        _start, _stop, flags, words, longest = table.T
        stays = (longest <= self._longest) & (words >= self._words)
        if self._settings.terminal_punctuation:
            citations = (flags & SQUARE != 0) & self._settings.citations
            stays &= (flags & (TERMINAL | ELLIPSIS) == TERMINAL) | citations
        table = table[stays][:, :4]
        if "words" in counted.__dict__:
            starts = counted.words.starts
            table[:, 3] = np.searchsorted(starts, table[:, 1]) - np.searchsorted(starts, table[:, 0])
        else:
            table[:, 3] = -1
        yield from table.tolist()

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

"""Words and phrases that a document may not have, or not many of: lists of one's own."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

from trainer.config.clean import BlockList
from trainer.data.clean.document import CleanedDocument, Limits, Verdict
from trainer.data.clean.word_list import WordFinder, read_list

NAME = "block_list"
KEY = "data.clean.block_list.files"


class BlockListStage:
    """Rejects by the number of matches, in small letters."""

    @staticmethod
    def limits_of(settings: BlockList) -> Limits:
        """The rule."""
        return Limits(NAME, {"matches": (None, settings.highest_matches)})

    def __init__(self, settings: BlockList) -> None:
        self._limits, self._most = self.limits_of(settings), settings.highest_matches
        words = [word.lower() for file in settings.files for word in read_list(file, KEY)]
        self._finder = WordFinder(words, KEY, whole_words=settings.whole_words)

    def __call__(self, document: CleanedDocument) -> Verdict | None:
        """Counts matches; where signals aren't kept, up to one too many."""
        found = list(
            islice(self._finder.find(document.text.lower()), None if document.every_signal else self._most + 1)
        )
        verdict = self._limits.verdict(document, {"matches": len(found)})
        return None if verdict is None else replace(verdict, detail=found[0])

"""Words and phrases that a document may not have, or not many of: lists of one's own."""

from __future__ import annotations

from itertools import islice

from trainer.config.clean import BlockList
from trainer.data.clean.document import CleanedDocument, Verdict
from trainer.data.clean.word_list import WordFinder, read_list

NAME = "block_list"
KEY = "data.clean.block_list.files"


class BlockListStage:
    """Rejects by the number of matches, in small letters."""

    def __init__(self, settings: BlockList) -> None:
        self._most = settings.highest_matches
        words = [word.lower() for file in settings.files for word in read_list(file, KEY)]
        self._finder = WordFinder(words, KEY, whole_words=settings.whole_words)

    def __call__(self, document: CleanedDocument) -> Verdict | None:
        """Counts matches; where signals aren't kept, up to one too many."""
        found = list(
            islice(self._finder.find(document.text.lower()), None if document.every_signal else self._most + 1)
        )
        document.signals[f"{NAME}.matches"] = len(found)
        if len(found) > self._most:
            return Verdict(f"{NAME}.matches", len(found), self._most, detail=found[0])
        return None

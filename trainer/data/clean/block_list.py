"""Words and phrases that a document may not have, or not many of: lists of one's own."""

from __future__ import annotations

import re
from pathlib import Path

from trainer.config.clean import BlockList
from trainer.data.clean.document import CleanedDocument, Verdict
from trainer.errors import InputError

NAME = "block_list"


class BlockListStage:
    """Rejects by the number of matches, in small letters."""

    def __init__(self, settings: BlockList) -> None:
        self._settings = settings
        words = sorted({word for file in settings.files for word in read_words(Path(file).expanduser())})
        inside = "|".join(map(re.escape, words))
        pattern = rf"(?<!\w)(?:{inside})(?!\w)" if settings.whole_words else inside
        self._pattern = re.compile(pattern) if words else None

    def __call__(self, document: CleanedDocument) -> Verdict | None:
        """Counts matches, up to one too many."""
        if self._pattern is None:
            return None
        count, first = 0, ""
        for found in self._pattern.finditer(document.text.lower()):
            count, first = count + 1, first or found[0]
            if count > self._settings.highest_matches:
                break
        document.signals[f"{NAME}.matches"] = count
        if count > self._settings.highest_matches:
            return Verdict(f"{NAME}.matches", count, self._settings.highest_matches, detail=first)
        return None


def read_words(path: Path) -> list[str]:
    """The words of a list, in small letters: one to a line, without blank lines."""
    try:
        return [line.strip().lower() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"data.clean.block_list.files: {path} can't be read as UTF-8 text ({error}).") from error

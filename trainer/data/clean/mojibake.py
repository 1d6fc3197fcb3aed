"""Repair of text that was decoded as another encoding than its own (â€™ for ’), by ftfy.

Curly quotes and full-width characters stay as they are: in Chinese they are right.
"""

from __future__ import annotations

from trainer.data.clean.document import CleanedDocument, Verdict
from trainer.data.text.libraries import library


class MojibakeStage:
    """Repairs lines that look broken; rejects nothing."""

    def __init__(self) -> None:
        ftfy = library("ftfy", "data.clean stage mojibake")
        self._is_bad = library("ftfy.badness", "data.clean stage mojibake").is_bad
        self._fix = ftfy.fix_text
        self._config = ftfy.TextFixerConfig(uncurl_quotes=False, fix_character_width=False, unescape_html=False)

    def __call__(self, document: CleanedDocument) -> Verdict | None:
        """Changes the text where ftfy calls it broken."""
        text = document.text
        if not text.isascii() and self._is_bad(text):
            document.change(self._fix(text, self._config), "mojibake: repaired")
        return None

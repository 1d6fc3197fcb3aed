"""One way of writing what can be written in several: a normal form, and no control characters."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal, cast

from trainer.config.clean import Unicode
from trainer.data.clean.document import CleanedDocument, Verdict

CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")


class UnicodeStage:
    """Normalises; rejects nothing."""

    def __init__(self, settings: Unicode) -> None:
        self._form = cast(Literal["NFC", "NFD", "NFKC", "NFKD"], settings.form)
        self._controls = settings.control_characters

    def __call__(self, document: CleanedDocument) -> Verdict | None:
        """Changes the text."""
        text = document.text
        if not text.isascii() and not unicodedata.is_normalized(self._form, text):
            document.change(unicodedata.normalize(self._form, text), f"unicode: put into {self._form}")
        if self._controls and CONTROLS.search(document.text):
            document.change(CONTROLS.sub("", document.text), "unicode: control characters taken out")
        return None

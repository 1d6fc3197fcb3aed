"""How well a KenLM language model of good text foresees a text (Wenzek et al. 2020, "CCNet", section 3.3)."""

from __future__ import annotations

import re
import unicodedata

from trainer.config.clean import Perplexity
from trainer.data.clean.document import CleanedDocument, Limits, Verdict
from trainer.data.clean.models import open_kenlm, open_pieces

NAME = "perplexity"
_MARKS = {  # as CCNet writes them (cc_net/text_normalizer.py, MIT), one of them oddly: its models were trained so
    "，": ",", "。": ".", "、": ",", "„": '"', "”": '"', "“": '"', "«": '"', "»": '"', "１": '"', "」": '"', "「": '"',
    "《": '"', "》": '"', "´": "'", "∶": ":", "：": ":", "？": "?", "！": "!", "（": "(", "）": ")", "；": ";",
    "–": "-", "—": " - ", "．": ". ", "～": "~", "’": "'", "…": "...", "━": "-", "〈": "<", "〉": ">", "【": "[",
    "】": "]", "％": "%", "►": "-",
}  # fmt: skip
_WRITTEN = str.maketrans(_MARKS | {chr(point): None for point in (*range(32), *range(127, 160))})
_DIGIT = re.compile(r"\d")


class PerplexityStage:
    """Rejects texts that a model foresees too badly, or too well."""

    @staticmethod
    def limits_of(settings: Perplexity) -> Limits:
        """The rules, in order."""
        return Limits(
            NAME,
            {
                "perplexity": (settings.lowest, settings.highest),
            },
        )

    def __init__(self, settings: Perplexity) -> None:
        key = f"data.clean.{NAME}"
        self._model = open_kenlm(str(settings.model), f"{key}.model")
        self._pieces = None if settings.pieces is None else open_pieces(settings.pieces, f"{key}.pieces")
        self._as_ccnet = settings.ccnet
        self._limits = self.limits_of(settings)

    def __call__(self, document: CleanedDocument) -> Verdict | None:
        """10^(-score / words), where the end of each line counts as a word. CCNet makes one line of a text."""
        text = as_ccnet(document.text) if self._as_ccnet else document.text
        lines = text.split("\n")
        if self._pieces is not None:
            lines = [" ".join(self._pieces.encode_as_pieces(line)) for line in lines]
        score, words = 0.0, 0
        for line in lines:
            score += self._model.score(line)
            words += len(line.split()) + 1
        return self._limits.verdict(document, {"perplexity": 10.0 ** min(300.0, -score / words)})


def as_ccnet(text: str) -> str:
    """A text as CCNet's models want it: small letters without accents, digits as 0, marks in ASCII, no control."""
    text = text.strip().lower()
    if not text.isascii():
        text = "".join(letter for letter in unicodedata.normalize("NFD", text) if unicodedata.category(letter) != "Mn")
    return _DIGIT.sub("0", text).translate(_WRITTEN)

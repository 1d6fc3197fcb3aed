"""Codes of other modalities, such as images or audio, in the vocabulary of a text's tokenizer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from trainer.config.knobs import knob
from trainer.errors import require

TEXT = "text"  # what isn't a code
MOST_CODES = 2**20  # of all modalities together
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


@dataclass
class Modality:
    """A modality whose codes others have made: each becomes a token after those of text."""

    codes: int = knob(0, "Codes of a codebook: they are 0 to one less.")
    books: int = knob(1, "Codebooks. Of arrays (time, books) the codes of a moment follow each other.", low=1)

    @property
    def size(self) -> int:
        """Tokens that stand for its codes."""
        return self.codes * self.books


def check_modalities(modalities: Mapping[str, Modality]) -> None:
    """Refuses names that can't be told apart from text, and sizes that are none."""
    for name, modality in modalities.items():
        require(
            _NAME.fullmatch(name) is not None and name not in (TEXT, "segments"),
            f"data.modalities.{name}: a name is small letters, digits and underscores, and not text or segments.",
        )
        require(modality.codes > 0, f"data.modalities.{name}.codes is not set: say how many codes a codebook has.")
    total = sum(modality.size for modality in modalities.values())
    require(total <= MOST_CODES, f"data.modalities: {total:,} codes in all; {MOST_CODES:,} is the most.")

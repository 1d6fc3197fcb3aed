"""How prepare takes out what documents repeat of earlier ones."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.config.knobs import knob

BLANK_LINES, LINES = "blank_lines", "lines"


@dataclass
class Paragraphs:
    """Exact duplicates of paragraphs over all documents, as CCNet (Wenzek et al. 2020) and Dolma drop them."""

    between: str = knob(BLANK_LINES, "What ends a paragraph.", choices=(BLANK_LINES, LINES), later=True, decides=True)
    lowest_bytes: int = knob(
        60, "Least length of a paragraph that is looked at, in UTF-8.", "bytes", low=1, later=True, decides=True
    )
    memory_bytes: int = knob(
        2**30, "Memory for the paragraphs that a worker sorts at once.", "bytes", low=2**20, later=True
    )

"""Copies of documents and taking paragraphs out of them, which can't be done of any documents."""

from __future__ import annotations

from trainer.config.data import Data
from trainer.errors import require

MOST_COPIES = 100  # of a document


def check_revision(data: Data) -> None:
    """Refuses what can't be done with documents once they are stored: copies of them, paragraphs taken out."""
    require(
        not data.repeated_paragraphs or data.deduplicate,
        "data.repeated_paragraphs=true needs data.deduplicate=true: equal documents repeat all of their paragraphs.",
    )
    require(
        not data.rehydrate or data.near_duplicates,
        "data.rehydrate needs data.near_duplicates=true: copies are by the sizes of clusters, which that finds.",
    )
    for size, copies in data.rehydrate.items():
        require(
            size >= 1 and 1 <= copies <= MOST_COPIES,
            f"data.rehydrate={{{size}:{copies}}}: sizes are 1 or more, copies 1 to {MOST_COPIES}.",
        )

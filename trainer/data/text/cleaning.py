"""How documents are cleaned as they are collected: what a work item needs to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.config.clean import Clean
from trainer.data.text.records import Rejected

if TYPE_CHECKING:
    from trainer.data.clean.cleaner import Cleaner

LEAST_SHARE = 2**16  # bytes of rejected text of each rule that a work item keeps


@dataclass(frozen=True)
class Cleaning:
    """The stages, and how many bytes of rejected text of each rule a work item keeps."""

    clean: Clean
    share: int

    @staticmethod
    def of(clean: Clean, items: int) -> Cleaning | None:
        """The cleaning of so many work items; None if there are no stages."""
        if not clean.stages:
            return None
        return Cleaning(clean, share_of_rejected(clean, items))

    def cleaner(self, folder: Path, item: int) -> Cleaner:
        """The stages for the documents of a work item."""
        from trainer.data.clean.cleaner import Cleaner  # compiled code: only where it is wanted

        return Cleaner(self.clean, folder, item, self.share)


def share_of_rejected(clean: Clean, items: int) -> int:
    """Bytes of rejected text of each rule that one of so many work items keeps."""
    share = max(LEAST_SHARE, clean.rejected_bytes // max(1, items))
    return min(share, clean.rejected_bytes)


def cleaned(cleaner: Cleaner, source: int, record: int, text: bytes, url: str) -> bytes | Rejected:
    """A document as it is left, or as rejected by a rule."""
    found = cleaner.clean(source, record, text, url)
    if isinstance(found, bytes):
        return found
    about = f"{found.value:.4g}, the limit is {found.limit:.4g}" + (f" ({found.detail})" if found.detail else "")
    return Rejected(found.rule, about).at("record", record)

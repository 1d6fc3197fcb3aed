"""Signed documents on disk, by buckets of the shuffle: what they are, their signatures, and band keys in order.

    near-000007.documents   SIGNED, exact duplicates aside, in the order of the bucket
    near-000007.signatures  uint32 (documents, places)
    near-000007.keys        for each band uint64 (documents,), sorted, then uint32 (documents,): whose they are

A document's number is its bucket times MOST_OF_A_BUCKET, plus its place in it. Files are mapped, not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.data.text.document_store import Damaged, DocumentStore
from trainer.machine.sealing.plaintext import map_plaintext, plaintext_size

SIGNED = np.dtype(
    [
        ("high", "<u8"),  # of the text's xxh3-128
        ("low", "<u8"),
        ("source", "<i8"),
        ("record", "<i8"),
        ("offset", "<i8"),  # of the text in its file
        ("length", "<i8"),
        ("item", "<i8"),  # the work item that stored it
        ("copies", "<i8"),  # how many documents are this text
    ]
)
MOST_OF_A_BUCKET = 2**40
PAIR = np.dtype([("first", "<u8"), ("second", "<u8")])
JUDGED = np.dtype([("first", "<u8"), ("second", "<u8"), ("similarity", "<f4")])


@dataclass(frozen=True)
class SignedStore:
    """Where signed documents are."""

    store: DocumentStore

    def path(self, bucket: int, kind: str) -> Path:
        """A file of a bucket."""
        return self.store.folder / f"near-{bucket:06d}.{kind}"

    def documents(self, bucket: int) -> np.ndarray:
        """The documents of a bucket: SIGNED."""
        return self.mapped(self.path(bucket, "documents"), SIGNED)

    def signatures(self, bucket: int, places: int) -> np.ndarray:
        """Their signatures: uint32 (documents, places)."""
        return self.mapped(self.path(bucket, "signatures"), np.dtype("<u4")).reshape(-1, places)

    def keys(self, bucket: int, band: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """A band's keys of `count` documents, sorted, and which document of the bucket each is of."""
        path = self.path(bucket, "keys")
        start = band * count * 12
        keys = self.mapped(path, np.dtype("<u8"), start, count)
        return keys, self.mapped(path, np.dtype("<u4"), start + 8 * count, count)

    def mapped(self, path: Path, dtype: np.dtype, offset: int = 0, count: int = -1) -> np.ndarray:
        """Numbers in a file. InputError where it isn't as it was written."""
        try:
            size = plaintext_size(path)
            if count < 0:
                if size % dtype.itemsize:
                    raise ValueError("cut short")
                count = size // dtype.itemsize
            if count == 0:
                return np.empty(0, dtype)
            if offset + count * dtype.itemsize > size:
                raise ValueError("cut short")
            return map_plaintext(path, dtype, offset, (count,))
        except (OSError, ValueError) as error:
            raise self.unreadable(path, error) from error

    def unreadable(self, path: Path, error: Exception) -> Damaged:
        """The refusal of such a file."""
        return self.store.unreadable(path, getattr(error, "strerror", None) or error)

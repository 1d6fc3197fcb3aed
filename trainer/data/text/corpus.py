"""The documents that were accepted, in the order of their shards, and what became of the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from trainer.data.text.parts import OrderedPart, Splits, part_texts, split_in_parts
from trainer.data.text.shuffle import Stored, training_texts


@dataclass(frozen=True)
class Corpus:
    """The accepted documents in the order of their shards, in parts, and what became of the others."""

    read: Stored  # as it was read
    stored: Stored  # as it stays, which may be the same
    splits: Splits
    parts: tuple[OrderedPart, ...]
    rejected: dict[str, int]
    first_rejected: dict[str, str]  # by reason: file and place of the first
    unused: dict[str, int]  # what was left out within files
    changed: dict[str, int]  # documents that aren't as their source has them, by what was done
    domains: dict[str, int]  # of documents whose records have an address, the most frequent ones
    documents_read: int
    labels: tuple[str, ...] = ()  # of examples, in the order of their numbers

    def documents_of(self, split: str) -> int:
        """How many documents a split has."""
        return sum(part.splits[split].documents for part in self.parts)

    def bytes_of(self, split: str) -> int:
        """UTF-8 bytes of a split."""
        return sum(part.splits[split].bytes for part in self.parts)

    def training_texts(self) -> Iterator[bytes]:
        """The training documents in the order of the shuffle, whether or not the shards are in it."""
        store = self.stored.store
        if not store.shuffled:
            yield from training_texts(self.stored, self.splits)
            return
        for part in split_in_parts(self.parts, "train"):
            yield from part_texts(store, "train", part)

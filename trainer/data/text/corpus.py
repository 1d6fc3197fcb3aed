"""The documents that were accepted, in the order of their shards, and what became of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from trainer.data.text.parts import OrderedPart, Splits, part_texts, split_in_parts
from trainer.data.text.progress import counts_in_words
from trainer.data.text.shard_job import Written
from trainer.data.text.shuffle import Stored, training_texts
from trainer.errors import InputError


@dataclass(frozen=True)
class Corpus:
    """The accepted documents in the order of their shards, in parts, and what became of the others."""

    stored: Stored
    splits: Splits
    parts: tuple[OrderedPart, ...]
    rejected: dict[str, int]
    first_rejected: dict[str, str]  # by reason: file and place of the first
    unused: dict[str, int]  # what was left out within files
    changed: dict[str, int]  # documents that aren't as their source has them, by what was done
    documents_read: int

    def with_rejected(self, written: dict[str, list[Written]]) -> Corpus:
        """With the examples that couldn't be rendered among the rejected. InputError where none is left to train on."""
        rejected, first = Counter(self.rejected), dict(self.first_rejected)
        for shard in (shard for shards in written.values() for shard in shards):
            rejected.update(shard.rejected)
            for reason, place in shard.first_rejected.items():
                first.setdefault(reason, place)
        if not any(shard.shard.documents for shard in written["train"]):
            where = "; ".join(f"{reason}: first {place}" for reason, place in sorted(first.items()))
            raise InputError(f"data.input: no document to prepare ({counts_in_words(rejected)}; {where}).")
        return replace(self, rejected=dict(sorted(rejected.items())), first_rejected=first)

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

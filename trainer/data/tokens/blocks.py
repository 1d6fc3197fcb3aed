"""A block of whole documents, which is what a shard is made of, and where its documents came from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from trainer.machine.json_file import Count, Xxh3


@dataclass(frozen=True)
class Document:
    """Where a document came from: number of its source, record in it; size in UTF-8 bytes; xxh3-128 in hexadecimal."""

    source: Count
    record: Count
    bytes: Count
    xxh3: Xxh3

    def line(self) -> str:
        """As a line of documents.jsonl."""
        return json.dumps({"source": self.source, "record": self.record, "bytes": self.bytes, "xxh3": self.xxh3}) + "\n"


@dataclass(frozen=True)
class DocumentSpan(Document):
    """A document and its tokens [start, stop) of the shard; the last one is the end-of-text token."""

    start: int
    stop: int


@dataclass(frozen=True)
class Block:
    """Whole documents: tokens (tokens,) with end-of-text ones, lengths (documents,) in tokens, and the documents.

    `targets`, (tokens,) bool, says which tokens are learnt; None: all of them. `members` are others of
    block_members.KINDS by name: (tokens or documents, width).
    """

    tokens: np.ndarray
    lengths: np.ndarray
    documents: list[Document]
    targets: np.ndarray | None = None
    members: Mapping[str, np.ndarray] = field(default_factory=dict)

    def each_document(self) -> Iterator[tuple[Document, np.ndarray]]:
        """The documents in order, each with its tokens without the end-of-text one."""
        ends = np.cumsum(self.lengths, dtype=np.int64).tolist()
        for document, start, end in zip(self.documents, [0, *ends], ends, strict=False):
            yield document, self.tokens[start : end - 1]

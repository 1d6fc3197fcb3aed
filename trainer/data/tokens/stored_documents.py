"""Documents by what names them, the hash of their text or FILE:RECORD of prepare's input; and where in the shards they
are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainer.data.tokens.blocks import DocumentSpan
from trainer.data.tokens.manifest import Manifest
from trainer.data.tokens.shards import Shards

HASH = re.compile(r"[0-9a-f]{32}")  # xxh3-128 of a document's text


@dataclass(frozen=True)
class DocumentId:
    """What is asked for: documents with this hash, or a record of the sources with these numbers."""

    hash: str | None
    sources: tuple[int, ...] = ()
    record: int = 0

    def is_at(self, source: int, record: int) -> bool:
        """Whether it is this record."""
        return source in self.sources and record == self.record


def parse_document_id(text: str, names: Sequence[str]) -> DocumentId | None:
    """What a text names, of sources with these names; without `sources` where none has it. None if it names nothing."""
    if HASH.fullmatch(text):
        return DocumentId(text)
    name, _, record = text.rpartition(":")
    if not name or not record.isdecimal():
        return None
    return DocumentId(None, tuple(number for number, each in enumerate(names) if each == name), int(record))


def documents_with(manifest: Manifest, document: DocumentId) -> Iterator[tuple[int, DocumentSpan]]:
    """The documents of a dataset that are meant, each with the number of its shard. All lists of documents are read."""
    for number, (shard, reader) in enumerate(zip(manifest.shards, Shards(manifest), strict=True)):
        for span in reader.documents(0, shard.tokens):
            if document.is_at(span.source, span.record) or document.hash == span.xxh3:
                yield number, span

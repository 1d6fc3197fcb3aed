"""Tokens of a tar that others wrote: its documents are read where the index says, and encoded when their turn comes.

The ids are those of the index or the run stops: each document's text is compared by its hash with what was indexed, and
its ids as well, so that neither a changed file nor another version of the tokenizer's library trains on something else.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import xxhash

from trainer.data.text.reading import Reading
from trainer.data.text.records import OTHER_FIELDS, Rejected
from trainer.data.tokens.blocks import Block, Document, DocumentSpan
from trainer.data.tokens.encoder import Encoder, ids_of_text
from trainer.data.tokens.manifest import Manifest
from trainer.data.tokens.open_files import OpenFile
from trainer.data.tokens.token_reader import TokenReader
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.data.web.columns import (
    BYTES,
    ENDS,
    IDS,
    KIND,
    OFFSET,
    RECORD,
    TEXT_BYTES,
    TEXT_HIGH,
    TEXT_LOW,
    as_signed,
    open_columns,
)
from trainer.data.web.members import content_of_document
from trainer.data.web.source_file import SourceFile, changed_document, open_source
from trainer.errors import InputError

CACHED_TOKENS = 2**25  # of all documents of a dataset that are kept, in their dtype: 64 or 128 MB
BLOCK_DOCUMENTS = 64  # that are looked at together, by those who go by blocks


def hash_ids(ids: np.ndarray) -> int:
    """The xxh3-64 of ids, as the index has it: int64."""
    return as_signed(xxhash.xxh3_64_intdigest(np.ascontiguousarray(ids, "<u4").tobytes()))


def hash_content(content: bytes | np.ndarray) -> tuple[int, int]:
    """The xxh3-128 of a text, or of stored ids, as the index has it: two int64."""
    data = content if isinstance(content, bytes) else np.ascontiguousarray(content, "<u4").tobytes()
    found = xxhash.xxh3_128_intdigest(data)
    return as_signed(found >> 64), as_signed(found & (2**64 - 1))


def encode_document(content: bytes | np.ndarray, encoder: Encoder) -> tuple[np.ndarray, np.ndarray]:
    """The ids of a document (tokens,) uint32; and those that are trained on, a text's with the end-of-text token."""
    if isinstance(content, np.ndarray):
        ids = content.astype(np.uint32)
        return ids, ids
    ids = np.concatenate([np.empty(0, np.uint32), *ids_of_text(encoder, content)]).astype(np.uint32)
    return ids, np.append(ids, np.uint32(encoder.tokenizer.end_of_text_id))


class EncodedDocuments:
    """What all tars of a dataset share: the encoder, and the documents that were encoded last. Threads may share it."""

    def __init__(self, manifest: Manifest) -> None:
        assert manifest.indexed is not None
        self._manifest = manifest
        self.reading = Reading(
            text_field=manifest.indexed.text_field, most_bytes=manifest.indexed.most_document_bytes, format="tar"
        )
        self._kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._held = 0
        self.lock = threading.RLock()

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder that the index names; where its library is missing here, the one that it equals."""
        assert self._manifest.indexed is not None
        names = {number: token for token, number in self._manifest.special_ids.items()}
        tokenizer = load_tokenizer(self._manifest.tokenizer_file.parent, names.get(self._manifest.end_of_text))
        try:
            return Encoder(tokenizer, self._manifest.indexed.engine)
        except ImportError:
            return Encoder(tokenizer, "tokenizers")

    def get(self, shard: int, document: int) -> np.ndarray | None:
        """A document that is kept."""
        found = self._kept.get((shard, document))
        if found is not None:
            self._kept.move_to_end((shard, document))
        return found

    def keep(self, shard: int, document: int, tokens: np.ndarray) -> None:
        """Keeps a document in the place of those that were used the longest ago."""
        self._kept[shard, document] = tokens
        self._held += len(tokens)
        while self._held > CACHED_TOKENS and len(self._kept) > 1:
            self._held -= len(self._kept.popitem(last=False)[1])


class IndexedTar:
    """The shard `number` of an indexed dataset, as a TokenReader. `tars` are all; rows may go on in the next one.

    Its documents are read from `source`, by default the tar where it lies; `named` is the index for people.
    """

    def __init__(
        self,
        manifest: Manifest,
        number: int,
        tars: Sequence[TokenReader],
        shared: EncodedDocuments,
        source: SourceFile | None = None,
        named: str | None = None,
    ) -> None:
        shard = manifest.shards[number]
        assert shard.indexed is not None
        self.path = manifest.folder / shard.file
        self.tokens = shard.tokens
        self.dtype = np.dtype(manifest.dtype)
        self.index = np.arange(0, shard.documents, BLOCK_DOCUMENTS)
        self._named = named or str(manifest.folder)
        self._shard, self._number, self._tars, self._shared = shard, number, tars, shared
        self._vocab_size = manifest.vocab_size
        self._index_file = OpenFile(self.path)
        self._columns = open_columns(
            self._index_file,
            sha256=shard.sha256,
            documents=shard.documents,
            tokens=shard.tokens,
            tar_bytes=shard.bytes,
            most=shared.reading.most_bytes + OTHER_FIELDS,
        )
        self._source = source or open_source(shard, manifest.folder)

    @property
    def columns(self) -> np.ndarray:
        """The index: (columns, documents) int64, read-only."""
        return self._columns

    # ------------------------------------------------------------------------------------------------------- tokens

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop), of which the last may be the next tars'."""
        if not 0 <= start <= stop:
            raise IndexError(f"{self.path}: tokens [{start}, {stop}) of {self.tokens}")
        here, parts = min(stop, self.tokens), []
        if start < here:
            first, last = self._documents_of(start, here)
            found = self._tokens_of(range(first, last))
            begin = self._start(first)
            parts.append(np.concatenate([found[number] for number in range(first, last)])[start - begin : here - begin])
        if stop > self.tokens:
            parts.append(self._following().read(max(0, start - self.tokens), stop - self.tokens))
        return np.concatenate([np.empty(0, self.dtype), *parts])

    def gather(self, starts: np.ndarray, length: int) -> np.ndarray:
        """As `read`, for each of `starts`; documents that several share are encoded once."""
        self._load_for(starts, starts + length)
        rows = [self.read(start, start + length) for start in starts.tolist()]
        return np.stack(rows) if rows else np.empty((0, length), self.dtype)

    def take(self, places: np.ndarray) -> np.ndarray:
        """The tokens at `places`."""
        if places.size and not 0 <= places.min() <= places.max() < self.tokens:
            raise IndexError(f"{self.path}: tokens {places.min()} to {places.max()}, of {self.tokens}")
        documents = self._columns[ENDS].searchsorted(places, side="right")
        found = np.empty(places.shape, self.dtype)
        numbers = np.unique(documents).tolist()
        with self._shared.lock:
            tokens = self._tokens_of(numbers)
        for number in numbers:
            chosen = documents == number
            found[chosen] = tokens[number][places[chosen] - self._start(number)]
        return found

    def take_targets(self, places: np.ndarray) -> np.ndarray:
        """All are."""
        return np.ones(places.shape, bool)

    def take_by_token(self, name: str, places: np.ndarray) -> np.ndarray:
        """Tars of others have no such members."""
        raise KeyError(name)

    def take_by_document(self, name: str, documents: np.ndarray) -> np.ndarray:
        """Tars of others have no such members."""
        raise KeyError(name)

    def _load_for(self, starts: np.ndarray, stops: np.ndarray) -> None:
        """Encodes what lies between, all of it read at once."""
        if len(starts):
            firsts = self._columns[ENDS].searchsorted(starts, side="right")
            lasts = self._columns[ENDS].searchsorted(np.minimum(stops, self.tokens), side="left") + 1
            wanted = {number for first, last in zip(firsts, lasts, strict=True) for number in range(first, last)}
            self._tokens_of(sorted(number for number in wanted if number < self._shard.documents))

    def _tokens_of(self, documents: Iterable[int]) -> dict[int, np.ndarray]:
        """The tokens of documents by their numbers."""
        with self._shared.lock:
            found = {number: self._shared.get(self._number, number) for number in documents}
            missing = [number for number, tokens in found.items() if tokens is None]
            spans = [(int(self._columns[OFFSET, n]), int(self._columns[BYTES, n])) for n in missing]
            for number, raw in zip(missing, self._source.read(spans) if spans else [], strict=True):
                found[number] = tokens = self._encode(number, raw)
                self._shared.keep(self._number, number, tokens)
        return {number: tokens for number, tokens in found.items() if tokens is not None}

    def _encode(self, number: int, raw: bytes) -> np.ndarray:
        """The tokens of a document that was read. InputError where they aren't those that were indexed."""
        assert self._shard.indexed is not None
        column = self._columns[:, number]
        address, record = self._shard.indexed.address, int(column[RECORD])
        content = content_of_document(raw, int(column[KIND]), self._shared.reading)
        if isinstance(content, Rejected):
            raise changed_document(address, record, f"can't be read any more ({content})", self._named)
        if hash_content(content) != (column[TEXT_HIGH], column[TEXT_LOW]):
            raise changed_document(address, record, "isn't what was indexed (its hash differs)", self._named)
        ids, tokens = encode_document(content, self._shared.encoder)
        if len(tokens) != self._start(number + 1) - self._start(number) or hash_ids(ids) != column[IDS]:
            raise InputError(
                f"{address}: record {record:,} has other tokens than when it was indexed, of the same text: index it "
                "again with the installed version of tokenizers, or install the one that it was indexed with."
            )
        return tokens.astype(self.dtype)

    # ---------------------------------------------------------------------------------------------------- documents

    def lengths(self) -> np.ndarray:
        """Tokens of each document: (documents,) uint32."""
        return np.diff(self._columns[ENDS], prepend=0).astype(np.uint32)

    def ends_before(self, stop: int) -> np.ndarray:
        """Where documents end, those of the next tars included as far as they begin before `stop`."""
        ends = np.asarray(self._columns[ENDS])
        if stop > self.tokens and self._number + 1 < len(self._tars):
            return np.concatenate([ends, self._following().ends_before(stop - self.tokens) + self.tokens])
        return ends[: int(ends.searchsorted(stop)) + 1]

    def documents(self, start: int, stop: int) -> list[DocumentSpan]:
        """The documents that hold any of the tokens [start, stop), with their places as this tar counts them."""
        spans = []
        if start < min(stop, self.tokens):
            for number in range(*self._documents_of(start, min(stop, self.tokens))):
                document = self._document(number)
                spans.append(DocumentSpan(**vars(document), start=self._start(number), stop=self._start(number + 1)))
        if stop > self.tokens:
            for span in self._following().documents(max(0, start - self.tokens), stop - self.tokens):
                moved = {**vars(span), "start": span.start + self.tokens, "stop": span.stop + self.tokens}
                spans.append(DocumentSpan(**moved))
        return spans

    def block(self, number: int) -> Block:
        """BLOCK_DOCUMENTS documents, or the rest."""
        first = int(self.index[number])
        documents = range(first, min(first + BLOCK_DOCUMENTS, self._shard.documents))
        tokens = self._tokens_of(documents)
        lengths = np.array([len(tokens[each]) for each in documents], np.uint32)
        return Block(
            np.concatenate([tokens[each] for each in documents]), lengths, [self._document(each) for each in documents]
        )

    def close(self) -> None:
        """Lets go of the files; the next read opens them again."""
        self._index_file.close()
        self._source.close()

    def _document(self, number: int) -> Document:
        record, size, high, low = self._columns[[RECORD, TEXT_BYTES, TEXT_HIGH, TEXT_LOW], number].tolist()
        words = (high % 2**64, low % 2**64)
        return Document(self._number, record, size, f"{words[0]:016x}{words[1]:016x}")

    def _documents_of(self, start: int, stop: int) -> tuple[int, int]:
        """The documents [first, last) of the tokens [start, stop), which are in this tar and some."""
        ends = self._columns[ENDS]
        return int(ends.searchsorted(start, side="right")), int(ends.searchsorted(stop, side="left")) + 1

    def _start(self, number: int) -> int:
        return int(self._columns[ENDS, number - 1]) if number else 0

    def _following(self) -> TokenReader:
        if self._number + 1 >= len(self._tars):
            raise IndexError(f"{self.path}: no tar follows it")
        return self._tars[self._number + 1]

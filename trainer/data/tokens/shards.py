"""Token shards: WebDataset tars of blocks of whole documents, of which any token is a slice away.

A block is three members: `KEY.tokens.npy` (every document ends in the end-of-text token), `KEY.lengths.npy` (tokens
per document) and `KEY.documents.jsonl` (per document its source number, record, UTF-8 bytes and xxh3-128). Where not
all tokens are learnt, a fourth says which: `KEY.targets.npy`, a bit for each token, least significant first. What
else it may hold is in block_members.py. Where members lie says the index beside the tar.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.data.tokens.blocks import Block, Document, DocumentSpan
from trainer.data.tokens.manifest import Manifest, Shard
from trainer.data.tokens.open_files import MOST_OPEN, OpenFile
from trainer.data.tokens.shard_index import (
    BITS_TYPE,
    DOCUMENTS,
    DOCUMENTS_BYTES,
    DOCUMENTS_OFFSET,
    LENGTH_TYPE,
    LENGTHS_OFFSET,
    TARGETS_OFFSET,
    TOKENS,
    TOKENS_OFFSET,
    columns_of_members,
    index_path,
    mask_bytes,
    open_index,
)
from trainer.data.tokens.token_reader import TokenReader
from trainer.errors import InputError
from trainer.machine.json_file import Malformed, from_json, parse_json

if TYPE_CHECKING:
    from trainer.data.web.reader import EncodedDocuments


class ShardReader:
    """A shard, memory-mapped when it is used: any tokens, and the documents that they come from."""

    def __init__(self, folder: Path, shard: Shard, dtype: str, file: OpenFile | None = None) -> None:
        problem = find_missing(folder, shard)
        if problem:
            raise InputError(problem)
        self.path = folder / shard.file
        self.tokens = shard.tokens
        self.has_targets = shard.targets is not None
        self.dtype = np.dtype(dtype)
        self.index = open_index(folder, shard, self.dtype)
        self._size = shard.content.bytes
        self._file = file or OpenFile(self.path)
        weakref.finalize(self, self._file.close)
        self._ends = np.cumsum(self.index[:, TOKENS])  # (blocks,): the token after each block
        self._starts = self._ends - self.index[:, TOKENS]
        self._last_documents = np.cumsum(self.index[:, DOCUMENTS])  # (blocks,): the document after each block
        self._members = columns_of_members(shard)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop), (stop - start,) in the shard's dtype; perhaps a read-only view of the file."""
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"{self.path}: tokens [{start}, {stop}) of {self.tokens}")
        first, last = self._blocks_of(start, stop)
        if last - first == 1:
            return self._tokens_of_block(first, start, stop)
        if first == last:
            return np.empty(0, self.dtype)
        return np.concatenate([self._tokens_of_block(block, start, stop) for block in range(first, last)])

    def gather(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Tokens [start, start + length) for each of `starts` (n,): (n, length), the shard's dtype, a copy.

        One indexing of all windows of the file, as if it were one array of tokens, which most rows are a slice of;
        those that span two blocks, or lie at odd bytes in a foreign tar, are read one by one.
        """
        if len(starts) and not 0 <= starts.min() <= starts.max() <= self.tokens - length:
            raise IndexError(f"{self.path}: {length} tokens from {starts.min()} to {starts.max()}, of {self.tokens}")
        width = self.dtype.itemsize
        blocks = self._ends.searchsorted(starts, side="right")
        offsets = self.index[blocks, TOKENS_OFFSET] + (starts - self._starts[blocks]) * width
        sliced = (starts + length <= self._ends[blocks]) & (offsets % width == 0)
        content = self._content()
        if not isinstance(content, np.ndarray):
            return self._gather_sealed(starts, length)
        count = max(0, len(content) // width - length + 1)
        windows: np.ndarray = np.ndarray((count, length), self.dtype, content.data, strides=(width, width))
        rows: np.ndarray = windows[np.where(sliced, offsets // width, 0)]
        for place in np.flatnonzero(~sliced).tolist():
            rows[place] = self.read(int(starts[place]), int(starts[place]) + length)
        return rows

    def _gather_sealed(self, starts: np.ndarray, length: int) -> np.ndarray:
        """The same of an encrypted shard, one by one as they lie, so that neighbours' blocks are decrypted once."""
        rows = np.empty((len(starts), length), self.dtype)
        for place in np.argsort(starts, kind="stable").tolist():
            rows[place] = self.read(int(starts[place]), int(starts[place]) + length)
        return rows

    def take(self, places: np.ndarray) -> np.ndarray:
        """The tokens at `places`, of any shape and in any order: the same shape, the shard's dtype, a copy."""
        blocks = self._blocks_at(places)
        offsets = self.index[blocks, TOKENS_OFFSET] + (places - self._starts[blocks]) * self.dtype.itemsize
        found = self._content()[offsets[..., None] + np.arange(self.dtype.itemsize)]
        return np.ascontiguousarray(found).view(self.dtype)[..., 0]

    def take_targets(self, places: np.ndarray) -> np.ndarray:
        """Whether the tokens at `places` are targets: the same shape, bool."""
        if not self.has_targets:
            return np.ones(places.shape, bool)
        blocks = self._blocks_at(places)
        within = places - self._starts[blocks]
        found = self._content()[self.index[blocks, TARGETS_OFFSET] + (within >> 3)]
        return (found >> (within & 7).astype(np.uint8) & 1).astype(bool)

    def take_by_token(self, name: str, places: np.ndarray) -> np.ndarray:
        """The numbers of a member for the tokens at `places`: (*places.shape, width), the member's dtype, a copy."""
        blocks = self._blocks_at(places)
        return self._take_rows(name, blocks, places - self._starts[blocks])

    def take_by_document(self, name: str, documents: np.ndarray) -> np.ndarray:
        """The numbers of a member for documents by their number in the shard: (*documents.shape, width), a copy."""
        blocks = self._last_documents.searchsorted(documents, side="right")
        return self._take_rows(name, blocks, documents - (self._last_documents - self.index[:, DOCUMENTS])[blocks])

    def _take_rows(self, name: str, blocks: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Rows of a member of blocks, of one shape: (*shape, width)."""
        kind, width, column = self._members[name]
        dtype = kind.of(self.dtype)
        size = width * dtype.itemsize
        found = self._content()[(self.index[blocks, column] + rows * size)[..., None] + np.arange(size)]
        return np.ascontiguousarray(found).view(dtype)

    def _block_member(self, name: str, block: int) -> np.ndarray:
        kind, width, column = self._members[name]
        count = kind.count(int(self.index[block, TOKENS]), int(self.index[block, DOCUMENTS]))
        return self._slice(int(self.index[block, column]), count * width, kind.of(self.dtype)).reshape(count, width)

    def _blocks_at(self, places: np.ndarray) -> np.ndarray:
        """The block of each place. IndexError where there is none."""
        if places.size and not 0 <= places.min() <= places.max() < self.tokens:
            raise IndexError(f"{self.path}: tokens {places.min()} to {places.max()}, of {self.tokens}")
        return self._ends.searchsorted(places, side="right")

    def lengths(self) -> np.ndarray:
        """Tokens of each document, end-of-text included: (documents,) uint32."""
        return np.concatenate([np.empty(0, LENGTH_TYPE), *map(self._checked_lengths, range(len(self.index)))])

    def ends_before(self, stop: int) -> np.ndarray:
        """Where the documents end that begin before token `stop`, or all do: (documents,) int64."""
        return np.cumsum(self.lengths(), dtype=np.int64)

    def documents(self, start: int, stop: int) -> list[DocumentSpan]:
        """The documents that hold any of the tokens [start, stop), in order."""
        spans = []
        for block in range(*self._blocks_of(start, stop)):
            lengths = self._checked_lengths(block)
            ends = self._starts[block] + np.cumsum(lengths, dtype=np.int64)
            starts = ends - lengths
            lines = self._block_lines(block)
            for place in np.flatnonzero((starts < stop) & (ends > start)).tolist():
                document = self._document(block, lines[place] if place < len(lines) else b"")
                spans.append(DocumentSpan(**vars(document), start=int(starts[place]), stop=int(ends[place])))
        return spans

    def block(self, number: int) -> Block:
        """A whole block; InputError where its documents.jsonl can't be read."""
        documents = [self._document(number, line) for line in self._block_lines(number)]
        return Block(
            self._block_tokens(number),
            self._block_lengths(number),
            documents,
            self._block_targets(number),
            {name: self._block_member(name, number) for name in self._members},
        )

    def _document(self, block: int, line: bytes) -> Document:
        try:
            return from_json(Document, parse_json(line))
        except Malformed as error:
            raise InputError(
                f"{self.path}: block {block}: documents.jsonl is damaged ({error}); prepare it again."
            ) from error

    def close(self) -> None:
        """Lets go of the file; views that were read stay valid, and the next read opens it again."""
        self._file.close()

    def _blocks_of(self, start: int, stop: int) -> tuple[int, int]:
        """The blocks [first, last) that hold the tokens [start, stop)."""
        if start >= stop:
            return 0, 0
        return int(self._ends.searchsorted(start, side="right")), int(self._starts.searchsorted(stop))

    def _tokens_of_block(self, block: int, start: int, stop: int) -> np.ndarray:
        """Those of the tokens [start, stop) that are in a block."""
        first = max(start, int(self._starts[block]))
        offset = int(self.index[block, TOKENS_OFFSET]) + (first - int(self._starts[block])) * self.dtype.itemsize
        return self._slice(offset, min(stop, int(self._ends[block])) - first, self.dtype)

    def _block_tokens(self, block: int) -> np.ndarray:
        row = self.index[block]
        return self._slice(int(row[TOKENS_OFFSET]), int(row[TOKENS]), self.dtype)

    def _block_targets(self, block: int) -> np.ndarray | None:
        """(tokens,) bool, or None where all are. InputError where bits are set beyond the last token."""
        if not self.has_targets:
            return None
        count = int(self.index[block, TOKENS])
        bits = self._slice(int(self.index[block, TARGETS_OFFSET]), mask_bytes(count), BITS_TYPE)
        found = np.unpackbits(bits, bitorder="little").astype(bool)
        if found[count:].any():
            raise InputError(f"{self.path}: block {block}: more targets than tokens; prepare it again.")
        return found[:count]

    def _block_lengths(self, block: int) -> np.ndarray:
        offset, count = self.index[block, [LENGTHS_OFFSET, DOCUMENTS]].tolist()
        return self._slice(offset, count, LENGTH_TYPE)

    def _checked_lengths(self, block: int) -> np.ndarray:
        """The lengths of a block's documents. InputError unless they are its tokens, cut."""
        lengths = self._block_lengths(block)
        if lengths.sum(dtype=np.int64) != self.index[block, TOKENS] or not lengths.all():
            raise InputError(f"{self.path}: block {block}: the documents' lengths aren't its tokens; prepare it again.")
        return lengths

    def _block_lines(self, block: int) -> list[bytes]:
        offset, size = self.index[block, [DOCUMENTS_OFFSET, DOCUMENTS_BYTES]].tolist()
        return self._slice(offset, size, np.dtype(np.uint8)).tobytes().splitlines()

    def _slice(self, offset: int, count: int, kind: np.dtype) -> np.ndarray:
        found: np.ndarray = self._content()[offset : offset + count * kind.itemsize]
        return found.view(kind)

    def _content(self) -> Any:
        """The tar's bytes, as `OpenFile.content`. InputError if it isn't the file that was opened."""
        content = self._file.content()
        if len(content) != self._size:
            raise InputError(f"{self.path}: it has changed since it was opened; start again.")
        return content


class Shards(Sequence[TokenReader]):
    """The shards of a dataset. Each is opened and checked when it is first asked for; most runs use few of many.

    The readers of the most recently used stay, since an index is read and hashed anew with each. Threads may share it.
    """

    def __init__(self, manifest: Manifest, most: int = MOST_OPEN) -> None:
        self._manifest = manifest
        self._most = most
        self._readers: OrderedDict[int, TokenReader] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._manifest.shards)

    def __getitem__(self, number: int) -> TokenReader:  # type: ignore[override]
        """The reader of a shard. InputError, naming the file and the mend, where it isn't as the manifest says."""
        with self._lock:
            reader = self._readers.get(number)
            if reader is None:
                reader = self._readers[number] = self._open(number)
                while len(self._readers) > self._most:
                    self._readers.popitem(last=False)
            self._readers.move_to_end(number)
            return reader

    def _open(self, number: int) -> TokenReader:
        shard = self._manifest.shards[number]
        if self._manifest.indexed is None:
            return ShardReader(self._manifest.folder, shard, self._manifest.dtype)
        from trainer.data.web.reader import IndexedTar

        return IndexedTar(self._manifest, number, self, self._encoded)

    @cached_property
    def _encoded(self) -> EncodedDocuments:
        """What the tars of an indexed dataset share."""
        from trainer.data.web.reader import EncodedDocuments

        return EncodedDocuments(self._manifest)


def find_missing(folder: Path, shard: Shard) -> str | None:
    """What is wrong with a shard's files, as far as the file system's directory shows it: a line, or None."""
    path = folder / shard.file
    if shard.indexed is not None:
        return _find_missing_tar(folder, shard)
    if not path.is_file():
        return f"{path}: the shard is missing; fetch it, or prepare the data again."
    if path.stat().st_size != shard.bytes:
        return (
            f"{path}: {path.stat().st_size:,} bytes, {shard.bytes:,} expected by the manifest: the shard is cut "
            "short or replaced; fetch it, or prepare the data again."
        )
    if not index_path(path).is_file():
        return f'{index_path(path)}: the index of {shard.file} is missing; run "banyan data index {folder}".'
    return None


def _find_missing_tar(folder: Path, shard: Shard) -> str | None:
    """The same of the index of a tar that others wrote; one at a URL is asked for when it is first read."""
    from trainer.data.text.remote import is_remote
    from trainer.data.web.source_file import find_changed

    assert shard.indexed is not None
    if not (folder / shard.file).is_file():
        return f'{folder / shard.file}: the index is missing; run "banyan data index {folder}".'
    return None if is_remote(shard.indexed.address) else find_changed(shard, folder)


def open_shards(manifest: Manifest) -> list[TokenReader]:
    """Readers of all shards, in order, once every file is there with its size and an index that fits it.

    Hashes of shards are `verify`'s business, and a run's (data.verify_bytes).
    """
    return list(Shards(manifest, most=max(1, len(manifest.shards))))

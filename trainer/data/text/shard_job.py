"""One shard, from parts in order to the finished tar: read them, encode them, pack them into blocks, write."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.examples.augment import Augmentation
from trainer.data.examples.blocks import ExamplePacker
from trainer.data.examples.render import Renderer
from trainer.data.text.document_store import DocumentStore, hashes_of
from trainer.data.text.parts import PartInSplit, read_split_rows, split_texts
from trainer.data.text.workers import Work
from trainer.data.tokens.blocks import Block, Document
from trainer.data.tokens.encoder import Encoder, ids_of_text
from trainer.data.tokens.manifest import Shard
from trainer.data.tokens.shard_index import index_path
from trainer.data.tokens.shard_writer import write_shard
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.machine.durable import write_json
from trainer.machine.json_file import Count, Malformed, from_json, read_json


@dataclass(frozen=True)
class ShardJob:
    """A work item: the shard to write, of the documents that begin in the bytes [start, stop) of its split.

    `parts` are those that hold them.
    """

    path: Path
    start: int
    stop: int
    parts: tuple[PartInSplit, ...]

    @property
    def split(self) -> str:
        """The split that it is of."""
        return self.path.parent.name


@dataclass(frozen=True)
class Written:
    """A shard, and how many of its documents are no token but the end of text, with (source, record) of the first."""

    shard: Shard
    wordless: Count
    first_wordless: tuple[Count, ...] | None
    rejected: dict[str, Count] = field(default_factory=dict)  # examples that couldn't be rendered, by reason
    first_rejected: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As a note has it."""
        return {**asdict(self), "shard": self.shard.to_json()}


@dataclass(frozen=True)
class Examples:
    """That documents are examples: the names of all sources, and whether one that can't be rendered is refused.

    `labels` are all of them, in order; `augmentation` makes further examples of those that are trained on.
    """

    sources: tuple[str, ...]
    refuses: bool
    labels: tuple[str, ...] = ()
    augmentation: Augmentation | None = None


@dataclass(frozen=True)
class MakeShard(Work[ShardJob, Written]):
    """Writes a shard, unless it is there already. `engine` is what encodes (tokens/encoder.py, try_tokenizer).

    The note of a shard, among the stored documents, remembers its hash and counts.
    """

    store: DocumentStore
    tokenizer: Path
    end_of_text: str
    engine: str
    dtype: str
    block_tokens: int
    examples: Examples | None = None

    def note(self, item: ShardJob) -> Path:
        """Hash and counts of a shard."""
        return self.store.folder / f"{item.split}-{item.path.stem}.json"

    def __call__(self, item: ShardJob) -> Written:
        """Reads, encodes and writes."""
        finished = self._finished(item)
        if finished is not None:
            return finished
        rows = read_split_rows(self.store, item.split, item.parts, item.start, item.stop)
        if self.examples is not None:
            return self._write_examples(item, rows, self.examples)
        encoder = _encoder(self.tokenizer, self.end_of_text, self.engine)
        wordless = _Wordless()
        blocks = wordless.watch(
            pack(rows, split_texts(self.store, item.parts, rows), encoder, self.block_tokens, self.dtype)
        )
        shard = write_shard(item.path, blocks, dtype=self.dtype, scratch=self.store.folder)
        written = Written(shard, wordless.count, wordless.first)
        write_json(self.note(item), written.to_json())
        return written

    def _write_examples(self, item: ShardJob, rows: np.ndarray, examples: Examples) -> Written:
        """Renders and writes."""
        packer = ExamplePacker(
            _renderer(self.tokenizer, self.end_of_text, examples.labels),
            self.block_tokens,
            examples.sources,
            examples.refuses,
            examples.augmentation if item.split == "train" else None,
        )
        blocks = packer.pack(_origins(rows), split_texts(self.store, item.parts, rows))
        shard = write_shard(item.path, blocks, dtype=self.dtype, scratch=self.store.folder)
        written = Written(shard, 0, None, dict(packer.rejected), packer.first)
        write_json(self.note(item), written.to_json())
        return written

    def _finished(self, item: ShardJob) -> Written | None:
        """The shard as an earlier run left it, if it did. InputError where its note can't be."""
        note = self.note(item)
        if not item.path.is_file() or not index_path(item.path).is_file():
            return None
        try:
            written = from_json(Written, read_json(note))
            shard, first = written.shard, written.first_wordless
            if first is not None and len(first) != 2:
                raise Malformed("its first place doesn't fit")
        except FileNotFoundError:
            return None
        except Malformed as error:
            raise self.store.unreadable(note, error) from error
        described = shard.file == item.path.name and shard.index_sha256 is not None
        return written if described and item.path.stat().st_size == shard.bytes else None


@lru_cache(maxsize=1)
def _renderer(tokenizer: Path, end_of_text: str, labels: tuple[str, ...]) -> Renderer:
    """The renderer of this process, loaded once."""
    return Renderer(load_tokenizer(tokenizer, end_of_text), labels)


class _Wordless:
    """Counts the documents that are no token but the end of text."""

    def __init__(self) -> None:
        self.count = 0
        self.first: tuple[int, int] | None = None

    def watch(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """The same blocks."""
        for block in blocks:
            empty = np.flatnonzero(block.lengths == 1)
            if len(empty) and self.first is None:
                document = block.documents[int(empty[0])]
                self.first = document.source, document.record
            self.count += len(empty)
            yield block


@lru_cache(maxsize=1)
def _encoder(tokenizer: Path, end_of_text: str, engine: str) -> Encoder:
    """The encoder of this process, loaded once."""
    return Encoder(load_tokenizer(tokenizer, end_of_text), engine)


def pack(
    rows: np.ndarray, texts: Iterable[list[bytes]], encoder: Encoder, block_tokens: int, dtype: str
) -> Iterator[Block]:
    """The documents, encoded, as blocks of whole ones: closed before they would exceed `block_tokens`.

    `rows` (ROW) say where the documents are from, `texts` are in the same order, each in a list of its own.

    Never more than one document's text and tokens is held, besides a block's and some smaller texts.
    """
    first, block = 0, _OpenBlock(dtype)
    for row, text in enumerate(texts):
        for piece in ids_of_text(encoder, text.pop()):
            block.add(piece)
        before = block.end_document(encoder.tokenizer.end_of_text_id)
        if before and block.size > block_tokens:
            yield block.close(before, rows[first:row])
            first = row
        if block.size >= block_tokens:  # no other document can join it
            yield block.close(len(block.lengths), rows[first : row + 1])
            first = row + 1
    if block.lengths:
        yield block.close(len(block.lengths), rows[first:])


class _OpenBlock:
    """A block that grows: tokens in one buffer, so that the tokens of a large document are held once."""

    def __init__(self, dtype: str) -> None:
        self.lengths: list[int] = []  # of the documents, in tokens
        self.size = 0  # tokens of the documents that have ended
        self._dtype = np.dtype(dtype)
        self._tokens = array(self._dtype.char)

    def add(self, ids: np.ndarray) -> None:
        """Adds ids of the document that is under way."""
        self._tokens.frombytes(ids.astype(self._dtype, copy=False).data.cast("B"))

    def end_document(self, end_of_text: int) -> int:
        """Ends the document that is under way; returns how many there were before it."""
        self._tokens.append(end_of_text)
        self.lengths.append(len(self._tokens) - self.size)
        self.size = len(self._tokens)
        return len(self.lengths) - 1

    def close(self, count: int, rows: np.ndarray) -> Block:
        """The first `count` documents as a block; the others stay."""
        lengths = np.array(self.lengths[:count], np.uint32)
        size = int(lengths.sum(dtype=np.int64))
        tokens, rest = self._tokens, array(self._dtype.char)
        if size < len(tokens):
            rest, tokens = tokens, tokens[:size]
            del rest[:size]
        self._tokens, self.lengths, self.size = rest, self.lengths[count:], len(rest)
        return Block(np.frombuffer(tokens, self._dtype), lengths, _origins(rows))


def _origins(rows: np.ndarray) -> list[Document]:
    columns = (rows["source"], rows["record"], rows["length"], *hashes_of(rows).T)
    return [
        Document(source, record, length, f"{high:016x}{low:016x}")
        for source, record, length, high, low in zip(*(column.tolist() for column in columns), strict=True)
    ]

"""One shard, from stored documents to the finished tar: read them, encode them, pack them into blocks, write."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from trainer.data.text.document_store import Documents, read_texts
from trainer.data.tokens.blocks import Block, Document
from trainer.data.tokens.encoder import Encoder
from trainer.data.tokens.manifest import Shard
from trainer.data.tokens.shard_index import index_path
from trainer.data.tokens.shard_writer import write_shard
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.errors import ConfigError, InputError
from trainer.machine.durable import write_json
from trainer.machine.json_file import Malformed, from_json, read_json


@dataclass(frozen=True)
class Packing:
    """What all shards of a prepare have in common. `engine` is what encodes (tokens/encoder.py, try_tokenizer).

    `partial` is the folder of what isn't finished: the stored documents, notes of shards, temporary files.
    """

    partial: Path
    tokenizer: Path
    end_of_text: str
    engine: str
    dtype: str
    block_tokens: int


@dataclass(frozen=True)
class ShardJob:
    """A work item: the shard to write, and its documents in order."""

    path: Path
    documents: Documents


def make_shard(job: ShardJob, *, packing: Packing) -> Shard:
    """Writes the shard, unless it is there already; a note in `partial` remembers its hash and counts."""
    note = packing.partial / f"{job.path.parent.name}-{job.path.stem}.json"
    finished = _finished(job, note)
    if finished is not None:
        return finished
    encoder = _encoder(packing.tokenizer, packing.end_of_text, packing.engine)
    blocks = pack(job.documents, packing.partial, encoder, packing.block_tokens, packing.dtype)
    shard = write_shard(job.path, blocks, dtype=packing.dtype, scratch=packing.partial)
    write_json(note, asdict(shard))
    return shard


def _finished(job: ShardJob, note: Path) -> Shard | None:
    """The shard as an earlier run left it, if it did. InputError where its note or its index can't be."""
    if not job.path.is_file() or not index_path(job.path).is_file():
        return None
    try:
        shard = from_json(Shard, read_json(note))
    except FileNotFoundError:
        return None
    except Malformed as error:
        raise InputError(f"{note}: can't be read ({error}); remove it, and start the same command again.") from error
    described = shard.file == job.path.name and shard.index_sha256 is not None
    whole = job.path.stat().st_size == shard.bytes and shard.documents == len(job.documents)
    return shard if described and whole else None


@lru_cache(maxsize=1)
def _encoder(tokenizer: Path, end_of_text: str, engine: str) -> Encoder:
    """The encoder of this process, loaded once."""
    return Encoder(load_tokenizer(tokenizer, end_of_text), engine)


def pack(documents: Documents, folder: Path, encoder: Encoder, block_tokens: int, dtype: str) -> Iterator[Block]:
    """The documents, encoded, as blocks of whole ones: closed before they would exceed `block_tokens`.

    Never more than one document's text and tokens is held, besides a block's and some smaller texts.
    """
    first, block = 0, _OpenBlock(dtype)
    for row, text in enumerate(read_texts(folder, documents)):
        for piece in _ids(encoder, text.pop()):
            block.add(piece)
        before = block.end_document(encoder.tokenizer.end_of_text_id)
        if before and block.size > block_tokens:
            yield block.close(before, documents.take(slice(first, row)))
            first = row
        if block.size >= block_tokens:  # no other document can join it
            yield block.close(len(block.lengths), documents.take(slice(first, row + 1)))
            first = row + 1
    if block.lengths:
        yield block.close(len(block.lengths), documents.take(slice(first, len(documents))))


def _ids(encoder: Encoder, text: bytes) -> Iterator[np.ndarray]:
    """The ids of a text, (tokens,) uint32, in pieces, each of which is let go of when the next one is asked for."""
    pieces = encoder.encode(text)
    del text
    end = encoder.tokenizer.end_of_text_id
    while pieces:
        piece = pieces.pop(0)
        if (piece == end).any():
            raise ConfigError(
                f"data.tokenizer: the end-of-text token {encoder.tokenizer.end_of_text} also stands for ordinary text: "
                "name another by data.tokenizer.end_of_text."
            )
        yield piece


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

    def close(self, count: int, documents: Documents) -> Block:
        """The first `count` documents as a block; the others stay."""
        lengths = np.array(self.lengths[:count], np.uint32)
        size = int(lengths.sum(dtype=np.int64))
        tokens, rest = self._tokens, array(self._dtype.char)
        if size < len(tokens):
            rest, tokens = tokens, tokens[:size]
            del rest[:size]
        self._tokens, self.lengths, self.size = rest, self.lengths[count:], len(rest)
        return Block(np.frombuffer(tokens, self._dtype), lengths, _origins(documents))


def _origins(documents: Documents) -> list[Document]:
    columns = (documents.source, documents.record, documents.length, documents.hash[:, 0], documents.hash[:, 1])
    return [
        Document(source, record, length, f"{high:016x}{low:016x}")
        for source, record, length, high, low in zip(*(column.tolist() for column in columns), strict=True)
    ]

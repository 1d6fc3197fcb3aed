"""One shard, from the spool to the finished tar: read its documents, encode them, pack them into blocks, write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from trainer.data.shards import Block, Document, Shard, index_path, write_shard
from trainer.data.spool import Documents, read_texts
from trainer.data.tokenizer import Encoder, load_tokenizer
from trainer.durable import write_json
from trainer.errors import ConfigError


@dataclass(frozen=True)
class Packing:
    """What all shards of a prepare have in common. `engine` is what encodes (trainer.data.tokenizer.choose_engine)."""

    spool: Path
    scratch: Path
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
    """Writes the shard, unless it is there already; a note in `scratch` remembers its hash and counts."""
    note = packing.scratch / f"{job.path.parent.name}-{job.path.stem}.json"
    finished = _finished(job, note)
    if finished is not None:
        return finished
    encoder = _encoder(packing.tokenizer, packing.end_of_text, packing.engine)
    blocks = pack(job.documents, packing.spool, encoder, packing.block_tokens)
    shard = write_shard(job.path, blocks, dtype=packing.dtype, scratch=packing.scratch)
    write_json(note, asdict(shard))
    return shard


def _finished(job: ShardJob, note: Path) -> Shard | None:
    """The shard as an earlier run left it, if it did."""
    if not note.exists() or not job.path.exists() or not index_path(job.path).exists():
        return None
    shard = Shard(**json.loads(note.read_text("utf-8")))
    whole = job.path.stat().st_size == shard.bytes and shard.documents == len(job.documents)
    return shard if whole else None


@lru_cache(maxsize=1)
def _encoder(tokenizer: Path, end_of_text: str, engine: str) -> Encoder:
    """The encoder of this process, loaded once."""
    return Encoder(load_tokenizer(tokenizer, end_of_text), engine)


def pack(documents: Documents, spool: Path, encoder: Encoder, block_tokens: int) -> Iterator[Block]:
    """The documents, encoded, as blocks of whole ones: closed before they would exceed `block_tokens`."""
    end = encoder.tokenizer.end_of_text_id
    first, held, size = 0, list[np.ndarray](), 0
    for row, ids in enumerate(encoder.encode(read_texts(spool, documents))):
        if (ids == end).any():
            raise ConfigError(
                f"data.tokenizer: the end-of-text token {encoder.tokenizer.end_of_text} also stands for ordinary text: "
                "name another by data.tokenizer.end_of_text."
            )
        if held and size + len(ids) + 1 > block_tokens:
            yield _block(documents.take(slice(first, row)), held, end)
            first, held, size = row, [], 0
        held.append(ids)
        size += len(ids) + 1
    if held:
        yield _block(documents.take(slice(first, len(documents))), held, end)


def _block(documents: Documents, ids: list[np.ndarray], end: int) -> Block:
    lengths = np.array([len(document) + 1 for document in ids], np.uint32)
    tokens = np.full(lengths.sum(dtype=np.int64), end, np.uint32)
    ends = np.zeros(len(tokens), dtype=bool)
    ends[np.cumsum(lengths, dtype=np.int64) - 1] = True
    tokens[~ends] = np.concatenate(ids)
    return Block(tokens, lengths, _origins(documents))


def _origins(documents: Documents) -> list[Document]:
    columns = (documents.source, documents.record, documents.length, documents.hash[:, 0], documents.hash[:, 1])
    return [
        Document(source, record, length, f"{high:016x}{low:016x}")
        for source, record, length, high, low in zip(*(column.tolist() for column in columns), strict=True)
    ]

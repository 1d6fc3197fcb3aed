"""Random tokens, the same for all contestants: as token shards for Banyan, as an array for others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

DOCUMENT = 512  # tokens
BLOCK = 1 << 16


def write_tokens(folder: Path, *, vocab_size: int, tokens: int, shards: int = 4) -> None:
    """Writes `folder`/tokens.npy, (tokens,) uint16, and the same in token shards in `folder`/shards."""
    from tests.corpus import make_tokenizer
    from trainer.data.tokens.manifest import Manifest, SourceGroup, write_manifest
    from trainer.data.tokens.shard_writer import write_shard
    from trainer.machine.sealing.plaintext import plaintext_sha256

    drawn = np.random.default_rng(0).integers(0, vocab_size, tokens).astype(np.uint16)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "tokens.npy", drawn)
    target = folder / "shards"
    target.mkdir()
    tokenizer = make_tokenizer()
    tokenizer.save(target / "tokenizer")
    file = target / "tokenizer" / "tokenizer.json"
    file.write_text(file.read_text() + " " * vocab_size)  # as large as one of so many tokens is at least
    written = [
        write_shard(target / f"shard-{number:06d}.tar", _blocks(part), dtype="uint16")
        for number, part in enumerate(np.array_split(drawn, shards))
    ]
    write_manifest(
        Manifest(
            folder=target,
            name="random",
            dtype="uint16",
            tokenizer_name=tokenizer.name,
            tokenizer_sha256=plaintext_sha256(target / "tokenizer" / "tokenizer.json"),
            vocab_size=vocab_size,
            end_of_text=tokenizer.end_of_text_id,
            special_ids={tokenizer.end_of_text: tokenizer.end_of_text_id},
            shards=tuple(written),
            rejected={},
            documents_read=sum(shard.documents for shard in written),
            sources=(SourceGroup("random", None, ("random",)),),
        )
    )


def _blocks(tokens: np.ndarray) -> Iterator:
    from trainer.data.tokens.blocks import Block, Document

    for start in range(0, len(tokens), BLOCK):
        piece = tokens[start : start + BLOCK]
        count = -(-len(piece) // DOCUMENT)
        lengths = np.full(count, DOCUMENT, dtype=np.uint32)
        lengths[-1] = len(piece) - DOCUMENT * (count - 1)
        documents = [Document(0, start // DOCUMENT + n, 4 * int(size), f"{n:032x}") for n, size in enumerate(lengths)]
        yield Block(piece, lengths, documents)


def rows(folder: Path, *, rank: int, ranks: int, size: int, length: int) -> Iterator[np.ndarray]:
    """Without end: arrays (size, length + 1) int64 from the start of tokens.npy on, each rank's own ones."""
    tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    batches = (len(tokens) - 1) // (size * length * ranks)
    while True:
        for batch in range(batches):
            first = (batch * ranks + rank) * size * length
            starts = first + np.arange(size) * length
            yield np.stack([tokens[start : start + length + 1] for start in starts]).astype(np.int64)

"""Small token shards made in a moment, for tests that are about what comes after prepare."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from trainer.data.tokens.blocks import Block, Document
from trainer.data.tokens.manifest import Manifest, Shard, SourceGroup, write_manifest
from trainer.data.tokens.shard_writer import write_shard
from trainer.data.tokens.tokenizer import Tokenizer, train_tokenizer
from trainer.machine.sealing.plaintext import plaintext_sha256

WORDS = [
    "the",
    "tree",
    "grows",
    "many",
    "trunks",
    "and",
    "every",
    "root",
    "finds",
    "water",
    "under",
    "red",
    "stone",
    "while",
    "rain",
    "falls",
    "on",
    "quiet",
    "leaves",
]


def write_texts(count: int, *, seed: int = 0) -> list[str]:
    """Documents of random words: `count` of them, 20 to 120 words each."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(20, 120))) for _ in range(count)]


def make_dataset(
    folder: Path, *, documents: int = 60, shards: int = 3, seed: int = 0, tokenizer=None, dtype="uint16", texts=None
) -> Manifest:
    """Writes a dataset of token shards, with a tokenizer of 300 tokens unless one is given, with `texts` or others."""
    tokenizer = tokenizer or make_tokenizer()
    folder.mkdir(parents=True)
    tokenizer.save(folder / "tokenizer")
    texts = texts or write_texts(documents, seed=seed)
    documents = len(texts)
    written = []
    for number in range(shards):
        chosen = list(range(number, documents, shards))
        path = folder / f"shard-{number:06d}.tar"
        half = len(chosen) // 2
        blocks = [to_block(tokenizer, texts, part) for part in (chosen[:half], chosen[half:])]
        written.append(write_shard(path, blocks, dtype=dtype))
    return write_dataset_manifest(folder, tokenizer, written, dtype=dtype, documents=documents)


def write_dataset_manifest(
    folder: Path, tokenizer: Tokenizer, shards: list[Shard], *, dtype: str, documents: int
) -> Manifest:
    """The manifest of shards that a test has written, whose tokenizer lies beside them."""
    manifest = Manifest(
        folder=folder,
        name=folder.name,
        dtype=dtype,
        tokenizer_name=tokenizer.name,
        tokenizer_sha256=plaintext_sha256(folder / "tokenizer" / "tokenizer.json"),
        vocab_size=tokenizer.vocab_size,
        end_of_text=tokenizer.end_of_text_id,
        special_ids={tokenizer.end_of_text: tokenizer.end_of_text_id},
        shards=tuple(shards),
        rejected={},
        documents_read=documents,
        sources=(SourceGroup("texts", None, ("texts.jsonl",)),),
    )
    write_manifest(manifest)
    return manifest


def make_tokenizer(vocab_size: int = 300) -> Tokenizer:
    """A byte-level BPE trained on the words."""
    texts = [text.encode() for text in write_texts(200, seed=99)]
    return train_tokenizer(texts, vocab_size=vocab_size, name="words")


def to_block(tokenizer: Tokenizer, texts: list[str], numbers: list[int]) -> Block:
    """The chosen documents as a block."""
    encoded = [[*tokenizer.encode(texts[number]), tokenizer.end_of_text_id] for number in numbers]
    documents = [Document(0, number, len(texts[number].encode()), f"{number:032x}") for number in numbers]
    lengths = np.array([len(tokens) for tokens in encoded], dtype=np.uint32)
    return Block(np.concatenate(encoded).astype(np.uint16), lengths, documents)

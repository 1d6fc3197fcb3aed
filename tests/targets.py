"""Token shards of which only some tokens are targets, made in a moment."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from tests.corpus import make_tokenizer, write_dataset_manifest
from trainer.data.tokens.blocks import Block, Document
from trainer.data.tokens.manifest import Manifest
from trainer.data.tokens.shard_writer import write_shard


def make_masked_dataset(
    folder: Path, *, documents: int = 40, shards: int = 2, seed: int = 0, longest: int = 30, dtype: str = "uint16"
) -> Manifest:
    """Documents of 2 to `longest` random tokens in blocks of three, each a prompt and an answer that is learnt."""
    draw, tokenizer = random.Random(seed), make_tokenizer()
    folder.mkdir(parents=True)
    tokenizer.save(folder / "tokenizer")
    written = []
    for number in range(shards):
        lengths = [draw.randint(2, longest) for _ in range(number, documents, shards)]
        blocks = [
            masked_block(draw, lengths[first : first + 3], tokenizer.end_of_text_id, first)
            for first in range(0, len(lengths), 3)
        ]
        written.append(write_shard(folder / f"shard-{number:06d}.tar", blocks, dtype=dtype))
    return write_dataset_manifest(folder, tokenizer, written, dtype=dtype, documents=documents)


def masked_block(draw: random.Random, lengths: list[int], end_of_text: int, first: int) -> Block:
    """Documents of random tokens; of each, those from a random one on are targets, the end of text always."""
    tokens, targets = [], []
    for length in lengths:
        tokens += [*(draw.randrange(1, 290) for _ in range(length - 1)), end_of_text]
        begin = draw.randrange(1, length)
        targets += [place >= begin for place in range(length)]
    documents = [
        Document(0, first + place, 4 * length, f"{first + place:032x}") for place, length in enumerate(lengths)
    ]
    return Block(np.array(tokens, np.uint16), np.array(lengths, np.uint32), documents, np.array(targets))

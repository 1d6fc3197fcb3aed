"""data.reference and data.teacher of prepare: which models are asked, and the shards with what they said."""

from __future__ import annotations

from collections import deque
from itertools import islice
from pathlib import Path

import numpy as np

from trainer.adapt.score_shards import AddMembers, AskBlock, Asked, BlockItem, ShardItem
from trainer.config import Data
from trainer.data.text.file_names import escape
from trainer.data.text.progress import ProgressBar, say
from trainer.data.text.workers import Map
from trainer.data.tokens.manifest import Shard
from trainer.data.tokens.shard_index import open_index
from trainer.data.tokens.tokenizer import Tokenizer
from trainer.machine.durable import make_folder
from trainer.run.frozen_model import find_frozen


def asked_models(data: Data) -> Asked:
    """The models that are named. ConfigError where one is none."""
    named = {"reference": data.reference, "teacher": data.teacher}
    models = {member: find_frozen(path, key=f"data.{member}") for member, path in named.items() if path}
    return Asked(models, data.model_precision, data.teacher_top_k, data.teacher_temperature)


def ask_models(
    asked: Asked, shards: dict[str, list[Shard]], unasked: Path, output: Path, tokenizer: Tokenizer, map_items: Map
) -> dict[str, list[Shard]]:
    """Asks about every block of the shards in `unasked`, then writes them to `output`, by split."""
    ask = AskBlock(unasked.parent, tokenizer.dtype, tokenizer.vocab_size, asked)
    all_shards = [(split, shard) for split, found in shards.items() for shard in found]
    dtype = np.dtype(tokenizer.dtype)
    blocks = [len(open_index(unasked / split, shard, dtype)) for split, shard in all_shards]
    for what, model in asked.models.items():
        say(what, f"{escape(model.folder)}, in {asked.precision}")
    with ProgressBar("ask", sum(shard.text_bytes for _, shard in all_shards)) as progress:
        items = (
            BlockItem(unasked / split, shard, number)
            for (split, shard), count in zip(all_shards, blocks, strict=True)
            for number in range(count)
        )
        done = map_items(ask, items)
        for (_, shard), count in zip(all_shards, blocks, strict=True):
            deque(islice(done, count), maxlen=0)
            progress.advance(bytes=shard.text_bytes, tokens=shard.tokens)
    for split in shards:
        make_folder(output / split)
    whole = map_items(
        AddMembers(ask), [ShardItem(unasked / split, shard, output / split / shard.file) for split, shard in all_shards]
    )
    return {split: list(islice(whole, len(found))) for split, found in shards.items()}

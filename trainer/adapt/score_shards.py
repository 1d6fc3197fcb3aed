"""Shards → shards whose blocks have one more member, from a frozen model: block by block, then written.

Both are work items like prepare's others: what a block got is kept, so that the same command goes on after any end.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.adapt.reference import reference_members
from trainer.adapt.teacher import Likeliest, teacher_members
from trainer.data.text.workers import Work
from trainer.data.tokens.manifest import ModelRecord, Shard
from trainer.data.tokens.shard_index import index_path
from trainer.data.tokens.shard_writer import write_shard
from trainer.data.tokens.shards import ShardReader
from trainer.data.tokens.tokenizer import Tokenizer
from trainer.errors import InputError, require
from trainer.machine.durable import replacing, write_json
from trainer.machine.json_file import Malformed, from_json, read_json
from trainer.machine.sealing.plaintext import open_plaintext
from trainer.model.build import LanguageModel
from trainer.run.frozen_model import FrozenModel


@dataclass(frozen=True)
class Asked:
    """What is asked of which models, by the member that comes of it: `reference` or `teacher`."""

    models: dict[str, FrozenModel]
    precision: str
    top_k: int
    temperature: float

    def check_vocabulary(self, tokenizer: Tokenizer, file: Path, output: Path) -> None:
        """Refuses models of other tokenizers than the data's, and more tokens of a teacher than there are."""
        for model in self.models.values():
            model.check_tokenizer(file, output)
        require(
            "teacher" not in self.models or self.top_k < tokenizer.vocab_size,
            f"data.teacher_top_k={self.top_k}: the vocabulary has {tokenizer.vocab_size:,} tokens; give fewer.",
        )

    @property
    def records(self) -> dict[str, ModelRecord]:
        """As a manifest has them."""
        return {
            name: place.record(self.precision, temperature=self.temperature if name == "teacher" else 1.0)
            for name, place in self.models.items()
        }


@dataclass(frozen=True)
class BlockItem:
    """A block of a shard of a split; the shard is in `folder`."""

    folder: Path
    shard: Shard
    number: int

    @property
    def name(self) -> str:
        """Tells it from all others."""
        return f"{self.folder.name}-{Path(self.shard.file).stem}-{self.number:06d}"


@dataclass(frozen=True)
class AskBlock(Work[BlockItem, Path]):
    """Asks the models about a block; the arrays, by member, are in the file that is returned."""

    scratch: Path
    dtype: str
    vocab_size: int
    asked: Asked

    def note(self, item: BlockItem) -> Path:
        """The arrays."""
        return self.scratch / f"{item.name}.npz"

    def __call__(self, item: BlockItem) -> Path:
        """Loads a model where this process hasn't yet, and runs the block's documents through it."""
        note = self.note(item)
        if note.is_file():
            return note
        block = ShardReader(item.folder, item.shard, self.dtype).block(item.number)
        found: dict[str, np.ndarray] = {}
        for member, place in self.asked.models.items():
            device = _device()
            model = _load(place, device, self.asked.precision)
            if member == "reference":
                found |= reference_members(model, place, block, device)
            else:
                likeliest = Likeliest(self.asked.top_k, self.asked.temperature, self.vocab_size)
                found |= teacher_members(model, place, block, device, likeliest)
        with replacing(note, scratch=self.scratch) as file:
            np.savez(file, **found)  # type: ignore[arg-type]
        return note


@dataclass(frozen=True)
class ShardItem:
    """A shard of a split in `folder`, and the file to write."""

    folder: Path
    shard: Shard
    target: Path


@dataclass(frozen=True)
class AddMembers(Work[ShardItem, Shard]):
    """Writes a shard anew with what the models said of its blocks."""

    ask: AskBlock

    def note(self, item: ShardItem) -> Path:
        """Hash and counts of the shard."""
        return self.ask.scratch / f"{item.target.parent.name}-{item.target.stem}-whole.json"

    def __call__(self, item: ShardItem) -> Shard:
        """Reads, adds and writes."""
        note = self.note(item)
        if item.target.is_file() and index_path(item.target).is_file():
            try:
                shard = from_json(Shard, read_json(note))
                if item.target.stat().st_size == shard.bytes:
                    return shard
            except (FileNotFoundError, Malformed):
                pass
        shard = write_shard(item.target, self._blocks(item), dtype=self.ask.dtype, scratch=self.ask.scratch)
        write_json(note, shard.to_json())
        return shard

    def _blocks(self, item: ShardItem) -> Iterator[Any]:
        reader = ShardReader(item.folder, item.shard, self.ask.dtype)
        for number in range(len(reader.index)):
            block, file = reader.block(number), self.ask.note(BlockItem(item.folder, item.shard, number))
            try:
                with open_plaintext(file) as opened, np.load(opened, allow_pickle=False) as found:
                    members = {name: found[name] for name in found.files}
            except (OSError, ValueError) as error:
                raise InputError(f"{file}: can't be read; remove it, and run the same command again.") from error
            yield replace(block, members={**block.members, **members})


def _device() -> torch.device:
    """A GPU for each worker in turn, where there is one; a CPU's results don't depend on the number of its threads."""
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
        return torch.device("cpu")
    worker = (multiprocessing.current_process()._identity or (1,))[-1]
    return torch.device("cuda", (worker - 1) % torch.cuda.device_count())


@lru_cache(maxsize=2)
def _load(place: FrozenModel, device: torch.device, precision: str) -> LanguageModel:
    return place.load(device, precision)

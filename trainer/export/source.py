"""What is exported: a model's description, its weights, each read when it is its turn, and its tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trainer.config import Model
from trainer.data.tokens.tokenizer import Tokenizer
from trainer.evaluate.loss import Score
from trainer.export.card_facts import RunFacts
from trainer.model.build import LanguageModel, build_empty
from trainer.model.hugging_face.architecture import stored_tensors
from trainer.model.hugging_face.tensor_files import StoredAs, Tensor
from trainer.model.region import Region


@dataclass(frozen=True)
class ExportSource:
    """A model to write. `architecture` and `generation` are config.json and generation_config.json, without a dtype.

    `shapes` are those of its parameters, in the model's order, and `read` gives elements of one, fp32 and 1-D.
    `described` names the model in a few words. `score` is its loss on every validation set there is, by name.
    `write_adapters(folder, dtype=…)` writes the adapters of one that was trained by them, and returns the bytes.
    `facts` are of the run that made it, for its card.
    """

    model: Model
    architecture: dict[str, Any]
    generation: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str, Region], torch.Tensor]
    tokenizer: Tokenizer
    tokenizer_folder: Path
    described: str
    score: Callable[[LanguageModel], dict[str, Score]] = field(default=lambda model: {})
    mask_token: str | None = None  # of a masked language model
    write_adapters: Callable[..., int] | None = None
    facts: RunFacts | None = None
    checkpoints: list[Path] = field(default_factory=list)  # of a run that it is made of, the newest first

    @property
    def stored_as(self) -> StoredAs:
        """Which tensors hold a parameter on disk: a model of Hugging Face's own code keeps its own."""
        return stored_tensors if self.model.path is None else lambda name, shape: [(name, shape)]

    def tensors(self) -> Iterator[Tensor]:
        """What Hugging Face wants on disk, in the order of the model."""
        for parameter, shape in self.shapes.items():
            start = 0
            for name, size in self.stored_as(parameter, shape):
                stop = start + torch.Size(size).numel()
                yield Tensor(name, size, partial(self.read, parameter, Region(shape, None, start, stop)))
                start = stop

    @torch.no_grad()
    def load(self) -> LanguageModel:
        """The whole model on the CPU, in fp32 and evaluation mode."""
        model = build_empty(self.model, torch.device("cpu"), torch.float32)
        for name, parameter in model.named_parameters():
            shape = self.shapes[name]
            parameter.copy_(self.read(name, Region.of_slice(shape, None)).view(shape))
        return model.eval()

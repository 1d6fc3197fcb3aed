"""The size of the vocabulary where the configuration leaves it to the data."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from trainer.config import Data, Model
from trainer.data.manifest import read_manifest


def with_vocabulary(model: Model, data: Data) -> Model | None:
    """The model with model.vocab_size set, if need be by the training data's tokenizer; None if they aren't here."""
    if model.vocab_size is not None:
        return model
    path = Path(data.path or next((entry.path for _, entry in sorted(data.train.items())), ""))
    for folder in (path, path / "train"):
        if (folder / "manifest.json").is_file():
            return dataclasses.replace(model, vocab_size=read_manifest(folder).vocab_size)
    return None

"""The size of the vocabulary where the configuration leaves it to the data."""

from __future__ import annotations

import dataclasses

from trainer.config import Data, Model
from trainer.data.dataset import find_folder
from trainer.data.manifest import read_manifest
from trainer.errors import InputError


def with_vocabulary(model: Model, data: Data) -> Model | None:
    """The model with model.vocab_size set, if need be by the training data's tokenizer; None if they aren't here."""
    if model.vocab_size is not None:
        return model
    path = data.path or next((entry.path for _, entry in sorted(data.train.items())), None)
    try:
        folder = find_folder(str(path), key="data.path", split="train")
        return dataclasses.replace(model, vocab_size=read_manifest(folder).vocab_size)
    except InputError:
        return None

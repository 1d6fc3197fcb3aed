"""What the manifests of a run's training sets decide of its configuration."""

from __future__ import annotations

from typing import Any

from trainer.config import Pretrain
from trainer.config.plain_values import with_values
from trainer.data.remote.fetching import Fetching
from trainer.data.tokens.dataset import find_folder
from trainer.data.tokens.manifest import Manifest, read_manifest


def with_data_vocabulary(config: Pretrain, manifest: Manifest) -> Pretrain:
    """With the vocabulary of a decoder of our own filled in: the data's, where none was asked for."""
    size = config.model.vocab_size
    if config.model.path is None and (size is None or (config.model.init_from and size < manifest.vocab_size)):
        return with_values(config, {"model.vocab_size": manifest.vocab_size})
    return config


def training_manifests(config: Pretrain) -> list[Manifest]:
    """Of the training sets, in their order."""
    data = config.data
    paths = {"data.path": data.path} if data.path else {f"data.train.{n}.path": e.path for n, e in data.train.items()}
    how: dict[str, Any] = {"split": "train", "fetching": Fetching.of(data)}
    return [read_manifest(find_folder(str(path), key=key, **how)) for key, path in paths.items()]

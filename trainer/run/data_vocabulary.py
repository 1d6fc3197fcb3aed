"""The vocabulary that a run's data give to a model that asks for none."""

from __future__ import annotations

from trainer.config import Pretrain
from trainer.config.plain_values import with_values
from trainer.data.tokens.manifest import Manifest


def with_data_vocabulary(config: Pretrain, manifest: Manifest) -> Pretrain:
    """With the vocabulary of a decoder of our own filled in: the data's, where none was asked for."""
    size = config.model.vocab_size
    if config.model.path is None and (size is None or (config.model.init_from and size < manifest.vocab_size)):
        return with_values(config, {"model.vocab_size": manifest.vocab_size})
    return config

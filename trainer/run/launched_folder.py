"""The run directory as launchers know it, who have the configuration as it was typed: the one that ranks will choose.

A run without a name is called after its configuration (directory.py), in which ranks have filled in by then what the
data decide. Imports torch only where that needs it: login nodes have none.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from trainer.config import Pretrain
from trainer.data.tokens.datasets import training_manifests
from trainer.errors import BanyanError
from trainer.run.data_vocabulary import with_data_vocabulary
from trainer.run.directory import locate, with_absolute_places


def locate_launched(config: Pretrain) -> Path:
    """run.dir, or runs/NAME; absolute. Where data or model can't be seen from here, the name is by what was typed."""
    if not config.run.dir and not config.run.name:
        with contextlib.suppress(BanyanError, OSError):
            config = settle_identity(config)
    return locate(config)


def settle_identity(config: Pretrain) -> Pretrain:
    """What ranks make of a configuration before they name the run. InputError or ConfigError where they'd refuse it."""
    config = with_absolute_places(config)
    if config.model.path is not None:
        from trainer.run.objective import settle_objective

        config = settle_objective(config)
    manifest = max(training_manifests(config.data), key=lambda each: each.vocab_size)
    config = with_data_vocabulary(config, manifest)
    if config.adapt.name == "lora":
        from trainer.run.open import with_trained_embeddings

        config = with_trained_embeddings(config, manifest)
    return config

"""Refuses fine-tuning that can't be done, before any file is read or device taken; each in one line."""

from __future__ import annotations

from trainer.config import Finetune
from trainer.errors import require
from trainer.rules.pretrain import check_pretrain


def check_finetune(config: Finetune, world_size: int) -> None:
    """Every check of `banyan finetune` that needs no file."""
    model = config.model
    require(
        bool(model.init_from or model.path or config.checkpoint.fork_from),
        "model.init_from is not set: name what is to be adapted, a run directory, a checkpoint or a Hugging Face "
        "folder; or model.path=DIR for Hugging Face's own code.",
    )
    check_pretrain(config, world_size)

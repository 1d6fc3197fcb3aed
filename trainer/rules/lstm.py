"""Refuses what an LSTM can't be asked for, before any file is read; each in one line."""

from __future__ import annotations

import dataclasses

from trainer.config import Model, Pretrain
from trainer.errors import require
from trainer.model.sizes import LSTM_KEYS

# Keys of `model` with an effect, and those that say which model it is
EFFECTIVE = (*LSTM_KEYS, "name", "kind", "z_loss", "loss_chunk", "head")


def check_lstm(config: Pretrain) -> None:
    """Refuses sizes and layouts that are for attention."""
    train, parallel = config.train, config.parallel
    for field in dataclasses.fields(Model):
        value = getattr(config.model, field.name)
        default = field.default if field.default is not dataclasses.MISSING else {}
        mend = "begin with checkpoint.fork_from" if field.name == "init_from" else "leave it out"
        require(
            field.name in EFFECTIVE or value == default,
            f"model.{field.name}={value} has no effect on model=lstm, of which {', '.join(LSTM_KEYS)} are the sizes: "
            f"{mend}.",
        )
    for key, value, allowed in (
        ("parallel.tensor", parallel.tensor, 1),
        ("parallel.sequence", parallel.sequence, 1),
        ("optimizer.name", "muon" if config.optimizer.name == "muon" else "adamw", "adamw"),
        ("adapt", config.adapt.name, "full"),
        ("train.compile", train.compile is True, False),
        ("train.activation_checkpointing", train.activation_checkpointing, "none"),
    ):
        require(
            value == allowed,
            f"{key}={value} with model=lstm: built for attention's matrices, not for a state that goes from token to "
            f"token; use {key}={allowed}.",
        )


def check_lstm_precision(config: Pretrain) -> None:
    """Refuses numbers in which torch's LSTM isn't exact on every device."""
    require(
        config.model.kind != "lstm" or not config.train.in_bf16,
        f"train.precision={config.train.precision} with model=lstm: its state adds up over the whole row, and bf16 "
        "loses it; use train.precision=fp32.",
    )

"""Banyan: the verb itself, with its loader, its guards and its logs, as a user's run has them.

Options: any dotted key of the configuration; `deepspeed` takes JSON.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any

from tests.benchmarks.contestants.stage import Stage
from tests.benchmarks.turns import Turns
from trainer.config import Pretrain


def configure(stage: Stage) -> Pretrain:
    """The run's configuration; what the case doesn't say stays at its default."""
    case = stage.case
    config = Pretrain()
    config.run.dir = str(stage.folder / f"run-{zlib.crc32(repr(stage.options).encode())}")
    config.data.path = str(stage.folder / "shards")
    config.data.sequence_length = case.sequence_length
    for name, value in case.model_settings().items():
        setattr(config.model, name, value)
    config.model.loss_chunk = case.loss_chunk
    config.train.steps = 10**6
    config.train.batch_size = case.rows * case.ranks
    config.train.micro_batch_size = case.rows
    config.train.precision = case.precision
    config.train.compile = case.compile
    config.train.activation_checkpointing = case.activation_checkpointing
    config.checkpoint.every = 0
    config.evaluate.every = 0
    for key, value in stage.options.items():
        *sections, name = key.split(".")
        section: Any = config
        for part in sections:
            section = getattr(section, part)
        kind = type(getattr(section, name))
        setattr(section, name, value if kind is type(None) else json.loads(value) if kind is dict else kind(value))
    return config


def main(facts: Callable[[], dict[str, Any]] = dict) -> int:
    """Trains in turns; `facts` are told at the end of each."""
    from trainer.engine.loop import Trainer
    from trainer.verbs import pretrain

    stage = Stage.from_arguments()
    turns = Turns(stage.case.warmup, facts)
    take_step = Trainer._take_step

    def in_turns(self: Trainer, step: int):
        turns.between()
        return take_step(self, step)

    Trainer._take_step = in_turns  # type: ignore[method-assign]
    return pretrain.main(configure(stage))


if __name__ == "__main__":
    main()

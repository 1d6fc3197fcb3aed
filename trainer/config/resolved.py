"""The configuration as plain values: what a run directory, a checkpoint and W&B are told."""

from __future__ import annotations

import dataclasses
from typing import Any

from trainer.config.model import OF_CAUSAL_LM, Model
from trainer.config.verbs import Pretrain

# Keys of `model` that shape our own decoder only
OF_OURS = tuple(field.name for field in dataclasses.fields(Model) if field.name not in OF_CAUSAL_LM)


def resolved(config: Pretrain) -> dict[str, Any]:
    """Every key by section, but for those of `model` that have no effect on the kind of model that it is."""
    values = dataclasses.asdict(config)
    idle = ("path", "overrides") if config.model.path is None else OF_OURS
    values["model"] = {key: value for key, value in values["model"].items() if key not in idle}
    return values

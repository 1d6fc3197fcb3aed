"""The configuration as plain values: what a run directory, a checkpoint and W&B are told."""

from __future__ import annotations

import dataclasses
from typing import Any

from trainer.config.model import OF_CAUSAL_LM, Model
from trainer.config.verbs import Pretrain
from trainer.machine.environment import as_stored

# Keys of `model` that shape our own decoder only
OF_OURS = tuple(field.name for field in dataclasses.fields(Model) if field.name not in OF_CAUSAL_LM)


def resolved(config: Pretrain) -> dict[str, Any]:
    """`plain`, but for what came from the environment: that stands as it was written, `${oc.env:NAME}`."""
    stored: dict[str, Any] = as_stored(plain(config))
    return stored


def plain(config: Pretrain) -> dict[str, Any]:
    """Every key by section, but for those of `model` that have no effect on the kind of model that it is."""
    values = dataclasses.asdict(config)
    idle = ("path", "overrides") if config.model.path is None else OF_OURS
    values["model"] = {key: value for key, value in values["model"].items() if key not in idle}
    return values


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} → {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat

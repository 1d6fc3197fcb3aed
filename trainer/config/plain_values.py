"""The configuration as plain values, as run directories, checkpoints and W&B store it; and with other values.

A configuration is never changed: whoever settles a value makes another one. tests/test_floors.py holds that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from trainer.config.model import OF_CAUSAL_LM, Model
from trainer.config.verbs import Pretrain
from trainer.machine.environment import as_stored

Config = TypeVar("Config")

# Keys of `model` that shape our own decoder only
OF_OURS = tuple(field.name for field in dataclasses.fields(Model) if field.name not in OF_CAUSAL_LM)


def as_stored_values(config: Pretrain) -> dict[str, Any]:
    """`as_values`, but for what came from the environment: that stands as it was written, `${oc.env:NAME}`."""
    stored: dict[str, Any] = as_stored(as_values(config))
    return stored


def as_values(config: Pretrain) -> dict[str, Any]:
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


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy with other values by dotted key, as {"train.precision": "bf16"}; sections without one are shared."""
    changed: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        name, _, rest = key.partition(".")
        if rest:
            inner.setdefault(name, {})[rest] = value
        else:
            changed[name] = value
    changed |= {name: with_values(getattr(config, name), deeper) for name, deeper in inner.items()}
    return dataclasses.replace(config, **changed)  # type: ignore[type-var]

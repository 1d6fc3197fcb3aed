"""A configuration is never changed: whoever settles a value makes another one. tests/test_floors.py holds that."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

Config = TypeVar("Config")


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

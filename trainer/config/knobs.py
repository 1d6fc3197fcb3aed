"""What a configuration field carries besides its default: a sentence, a unit, bounds. `--help` reads it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import field
from typing import Any


def knob(
    default: Any,
    text: str,
    unit: str = "",
    *,
    common: bool = False,
    choices: tuple[str, ...] = (),
    low: float = 0,
    high: float = math.inf,
    is_name: bool = False,
    later: bool = False,
    decides: bool = False,
    threshold: bool = False,
) -> Any:
    """A configuration field: default, one sentence, unit.

    `common` puts it into `--help`; a value outside `choices`, or a number outside [low, high], is refused. With
    `is_name` it becomes the name of folders, jobs or runs, and trainer/config/names.py says what it may be. `later` is
    for a field that runs of earlier versions don't have: at its default it leaves a run's name and identity as they
    were. `decides` is for one of prepare's that decides which shards are written: with another value, what is there is
    other data. `threshold` is for a bound of what cleaning counts, that may be another later.
    """
    metadata = {
        "text": text,
        "unit": unit,
        "common": common,
        "choices": choices,
        "low": low,
        "high": high,
        "is_name": is_name,
        "later": later,
        "decides": decides,
        "threshold": threshold,
    }
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def part(kind: type) -> Any:
    """A nested section of the configuration."""
    return field(default_factory=kind)


def later_fields(schema: type, prefix: str = "") -> dict[str, Any]:
    """Dotted names and defaults of the fields that are marked `later`, in a schema and its sections."""
    found: dict[str, Any] = {}
    for item in dataclasses.fields(schema):
        if dataclasses.is_dataclass(item.default_factory):
            found |= later_fields(item.default_factory, f"{prefix}{item.name}.")
        elif item.metadata.get("later"):
            found[f"{prefix}{item.name}"] = _default(item)
    return found


def _default(item: dataclasses.Field[Any]) -> Any:
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()


def deciding_values(section: Any, prefix: str) -> dict[str, Any]:
    """Dotted names and values of the fields that decide which shards prepare writes, in a section and its parts."""
    found: dict[str, Any] = {}
    for item in dataclasses.fields(section):
        value, key = getattr(section, item.name), f"{prefix}{item.name}"
        if dataclasses.is_dataclass(value):
            found |= deciding_values(value, f"{key}.")
        elif item.metadata["decides"] and not (item.metadata["later"] and value == _default(item)):
            found[key] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    """A value as it is stored: sections that are entries of a mapping as mappings."""
    if isinstance(value, dict):
        return {str(name): _plain(entry) for name, entry in value.items()}
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value

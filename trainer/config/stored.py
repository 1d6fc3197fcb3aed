"""A configuration that was stored as plain values, and which others may have written: nothing in it is interpolated."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from trainer.errors import InputError
from trainer.machine.json_file import read_regular

MOST_BYTES = 4 * 2**20  # of a config.yaml; ours have some 10 kB
Section = TypeVar("Section")


class _Loader(yaml.SafeLoader):
    """Refuses aliases, by which a short file can stand for gigabytes; what we store has none."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "an alias", self.peek_event().start_mark)
        return super().compose_node(parent, index)


def load_values(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. InputError, naming the file, where there is none."""
    try:
        values = yaml.load(read_regular(path, most_bytes=MOST_BYTES).decode("utf-8-sig"), _Loader)  # a SafeLoader
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path}: can't be read as YAML ({' '.join(str(error).split())[:200]}).") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds no configuration; restore the file.")
    return values


def from_values(schema: type[Section], values: Mapping[str, Any], prefix: str = "") -> Section:
    """An instance of a section from plain values; what is missing has its default. ValueError, naming the key."""
    kinds = typing.get_type_hints(schema)
    unknown = [str(name) for name in values if name not in kinds]
    if unknown:
        raise ValueError(f"{prefix}{unknown[0]}: no such key")
    fields = {name: _value(kinds[name], value, f"{prefix}{name}") for name, value in values.items()}
    return schema(**fields)


def _value(kind: Any, value: Any, key: str) -> Any:
    """`value` as a field of this annotation has it."""
    parts = typing.get_args(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        if value is None and type(None) in parts:
            return None
        return _one_of([part for part in parts if part is not type(None)], value, key)
    if dataclasses.is_dataclass(kind):
        return from_values(typing.cast(type, kind), _require(value, dict, key), f"{key}.")
    if typing.get_origin(kind) is dict:
        entries = _require(value, dict, key)
        return {_require(name, str, key): _value(parts[1], entry, f"{key}.{name}") for name, entry in entries.items()}
    if typing.get_origin(kind) is list:
        return [_value(parts[0], item, key) for item in _require(value, list, key)]
    if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
        return _number(value, key)
    return value if kind is Any else _require(value, kind, key)


def _one_of(kinds: list[Any], value: Any, key: str) -> Any:
    for kind in kinds[:-1]:
        if type(value) is kind:
            return value
    return _value(kinds[-1], value, key)


def _number(value: int | str, key: str) -> float:
    """Also 1e-4, which YAML takes for text."""
    try:
        return float(value)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{key}: must be a number, not {str(value)[:80]!r}") from error


def _require(value: Any, kind: Any, key: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{key}: must be {kind.__name__}, not {str(value)[:80]!r}")
    return value

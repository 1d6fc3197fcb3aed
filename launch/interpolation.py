"""What of a composed configuration came from environment variables: used, but stored as it was written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from omegaconf import Container, DictConfig, ListConfig, OmegaConf
from omegaconf.resolvers import oc

from launch import keys
from trainer.errors import ConfigError
from trainer.machine import credentials
from trainer.machine.environment import FromEnvironment

PUBLIC = ("run.dir", "search.dir", "track.wandb.", "launch.")
"""Keys, besides names, whose values are seen from outside: folders, what W&B shows, what SLURM is given."""

Place = tuple[str | int, ...]
_read: list[str] = []


def register_resolver() -> None:
    """Has `${oc.env:NAME}` note which variables it reads."""
    OmegaConf.register_new_resolver("oc.env", _variable, replace=True)


def mark(settled: Any, composed: DictConfig, schema: type) -> None:
    """Replaces text of `settled` that has read the environment, as `composed` shows, by FromEnvironment.

    A name, or one of a few choices, stays plain. ConfigError if a secret is to become a name.
    """
    about = {key.name: key for key in keys.keys(schema)}
    for place, value, written, variables in _texts(composed, ()):
        name = ".".join(str(part) for part in place)
        key = about.get(name)
        secret = next(filter(credentials.is_secret, variables), None)
        is_name = key is not None and key.is_name
        if secret and (is_name or name.startswith(PUBLIC)):
            raise ConfigError(f"{name}={written}: others see it, and {secret} is a secret by its name; use another.")
        if not is_name and not (key and value in key.choices):
            _put(settled, place, FromEnvironment(value, written))


def _variable(name: str, *default: Any) -> Any:
    value = oc.env(name, *default)
    if name in os.environ:
        _read.append(name)
        credentials.remember(name, os.environ[name])
    return value


def _texts(node: Container, place: Place) -> Iterator[tuple[Place, str, str, list[str]]]:
    """Text below `node` that reads the environment: its place, its value, how it is written, the variables."""
    assert isinstance(node, DictConfig | ListConfig)
    raw: Any = OmegaConf.to_container(node, resolve=False)
    names: list[Any] = list(range(len(raw))) if isinstance(raw, list) else list(raw)
    for name in names:
        _read.clear()
        value = node[name]
        here = (*place, name)
        if isinstance(value, Container):
            yield from _texts(value, here)
        elif _read and isinstance(value, str):
            yield here, value, str(raw[name]), list(_read)


def _put(tree: Any, place: Place, value: str) -> None:
    for part in place[:-1]:
        tree = getattr(tree, part) if isinstance(part, str) and hasattr(tree, part) else tree[part]
    last = place[-1]
    if isinstance(tree, dict | list):
        tree[last] = value  # type: ignore[index]
    else:
        setattr(tree, str(last), value)

"""track.wandb.KEY=VALUE on the command line of verbs that have no configuration of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.config import Wandb
from trainer.config.stored import from_values
from trainer.config.values import check_values
from trainer.errors import ConfigError


def wandb_settings(config: Mapping[str, Any], overrides: Sequence[str], verb: str) -> Wandb:
    """track.wandb of a run's configuration, changed by `overrides`; the mode isn't the run's own."""
    stored = {**((config.get("track") or {}).get("wandb") or {}), "mode": "auto"}
    given = {}
    known = {field.name for field in dataclasses.fields(Wandb)}
    for override in overrides:
        key = override.partition("=")[0]
        if key.removeprefix("track.wandb.") not in known or not key.startswith("track.wandb."):
            choices = ", ".join(f"track.wandb.{name}" for name in sorted(known))
            raise ConfigError(f"{key}: not a key of {verb}; choose one of {choices}.")
        given[key.removeprefix("track.wandb.")] = _typed(override.partition("=")[2])
    values = {key: value for key, value in stored.items() if key in known} | given
    for key, value in values.items():
        if "${" in str(value):
            raise ConfigError(f"track.wandb.{key}={value}: nothing is interpolated here; give track.wandb.{key}=VALUE.")
    try:
        settings = from_values(Wandb, values, "track.wandb.")
    except ValueError as error:
        raise ConfigError(f"{error}. Mend the value.") from error
    check_values(settings, "track.wandb.")
    return settings


def _typed(text: str) -> str | list[str] | None:
    """A value as it was typed: text, null or [a, b]."""
    if text.startswith("[") and text.endswith("]"):
        return [part.strip().strip("'\"") for part in text[1:-1].split(",") if part.strip()]
    return None if text == "null" else text

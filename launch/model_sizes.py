"""What model.init_from and model.path mean for other keys of the model: the folder decides what the user left alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.overrides import Override, unquoted
from trainer.config import OF_CAUSAL_LM
from trainer.config.names import as_name
from trainer.config.rope import settle_scaling
from trainer.errors import ConfigError, InputError
from trainer.machine.hub_name import is_hub_name, local_folder, parse_hub_name
from trainer.model.hugging_face.init_folder import find_init_folder


def sizes_from(overrides: Sequence[Override]) -> list[Override]:
    """Overrides that give the model the folder's sizes and name; none where `model=…` chose the sizes.

    A run that goes on doesn't need the folder any more: its sizes are in the run directory.
    """
    given = {override.name: unquoted(override.value) for override in overrides if override.prefix != "~"}
    path = given.get("model.init_from", "null")
    if path == "null" or "model" in given:
        return []
    init_folder = find_init_folder(path if local_folder(path).is_dir() else _run_directory(given) or path)
    fields = {"name": _name_of(path)} | init_folder.architecture
    for key, value in init_folder.architecture.items():  # from here on it counts as typed
        if key == "rope_scaling":
            fields[key] = _as_override(value)
        elif not isinstance(value, int | float | None):
            raise InputError(f"{path}: {key} is {str(value)[:80]!r}, not a number.")
    return [
        Override(f"model.{key}", "null" if value is None else str(value))
        for key, value in fields.items()
        if value != {} and not any(name.startswith(f"model.{key}") for name in given)
    ]


def _as_override(scaling: Mapping[str, Any]) -> str | dict[str, Any]:
    """A settled scaling as Hydra's command line has it; {} where there is none."""
    settled = settle_scaling(scaling)
    return "{" + ",".join(f"{name}:{str(value).lower()}" for name, value in settled.items()) + "}" if settled else {}


def causal_lm_from(overrides: Sequence[Override]) -> list[Override]:
    """What model.path means: model=hf, named as the folder. Sizes of our own decoder are refused beside it."""
    given = {override.name: unquoted(override.value) for override in overrides if override.prefix != "~"}
    path, choice = given.get("model.path", "null"), given.get("model", "hf")
    if path == "null":
        if given.get("model") == "hf":
            raise ConfigError(
                "model=hf needs model.path=DIR: the folder of a Hugging Face model, with its config.json."
            )
        return []
    if choice != "hf":
        raise ConfigError(
            f"model={choice} with model.path={path}: the folder describes the model; leave model={choice} out."
        )
    for key in given:
        section, _, field = key.partition(".")
        if section == "model" and field and field.partition(".")[0] not in OF_CAUSAL_LM:
            raise ConfigError(
                f"{key} has no effect with model.path, whose config.json describes the model: leave it out; fields of "
                "config.json are replaced by model.overrides.FIELD=VALUE."
            )
    settled = {"model": "hf", "model.name": _name_of(path)}
    return [Override(name, value) for name, value in settled.items() if name not in given]


def _name_of(path: str) -> str:
    return as_name(parse_hub_name(path, "the name").name if is_hub_name(path) else Path(path).resolve().name)


def _run_directory(given: dict[str, str]) -> str | None:
    run_dir = given.get("run.dir") or str(Path("runs") / given.get("run.name", "-"))
    return run_dir if (Path(run_dir) / "config.yaml").is_file() else None

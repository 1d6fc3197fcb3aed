"""Where initial weights come from (model.init_from): what kind of folder it is, and the model that it holds.

Nothing heavy is imported: the command line takes the model's sizes from here before anything starts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import Model
from trainer.config.rope import settle_scaling
from trainer.config.stored import from_values, load_values
from trainer.config.values import check_values
from trainer.errors import ConfigError, InputError
from trainer.machine.hub_name import local_folder
from trainer.model.hugging_face.architecture import (
    ARCHITECTURE,
    POSITIONS,
    first_difference,
    read_architecture,
    read_window,
)
from trainer.model.hugging_face.config_json import check_numbers, read_config_json, read_json_object
from trainer.model.hugging_face.safetensors_folder import holds_tensors, require_tensors


@dataclass(frozen=True)
class InitFolder:
    """A folder with weights: `kind` is hf (Hugging Face's), run (a run directory) or checkpoint (its step-N).

    `architecture` holds fields of trainer.config.Model; `tokenizer` is a tokenizer.json, where there is one. `window`
    is the longest row, in tokens, for which our decoder computes the same, and `positions` the longest that its
    config.json knows; None: any.
    """

    folder: Path
    kind: str
    architecture: dict[str, Any]
    tokenizer: Path | None
    window: int | None = None
    positions: int | None = None


def find_init_folder(given: str) -> InitFolder:
    """What model.init_from names. ConfigError or InputError if that is nothing to begin from."""
    folder = local_folder(given)
    if not folder.is_dir():
        raise ConfigError(f"model.init_from={given}: there is no such folder (nothing is downloaded).")
    if (folder / "config.json").is_file():
        config, source = read_config_json(folder), folder / "config.json"
        architecture = read_architecture(config, source)
        if holds_tensors(folder):  # a plan needs none
            require_tensors(folder, Model(**architecture))
        positions = config.get("max_position_embeddings")
        return dataclasses.replace(
            hf_folder(folder),
            architecture=architecture,
            window=read_window(config, source),
            positions=positions if isinstance(positions, int) else None,
        )
    if (folder / "config.yaml").is_file():
        architecture = _ours(_load(folder / "config.yaml"), folder / "config.yaml")
        return InitFolder(folder, "run", architecture, _tokenizer(folder / "tokenizer"))
    if (folder / "state.json").is_file():
        state = folder / "state.json"
        architecture = _ours(read_json_object(state).get("config"), state)
        return InitFolder(folder, "checkpoint", architecture, _tokenizer(folder.resolve().parent.parent / "tokenizer"))
    raise ConfigError(
        f"model.init_from={given}: no config.json (a Hugging Face folder), config.yaml (a run directory) or state.json "
        "(a checkpoint, step-N) is there; give one of these folders."
    )


def hf_folder(folder: Path) -> InitFolder:
    """A folder of Hugging Face's, whatever its architecture."""
    return InitFolder(folder, "hf", {}, _tokenizer(folder))


def require_fit(model: Model, source: InitFolder, sequence_length: int) -> None:
    """Refuses a model that isn't the one whose weights it is to begin with, naming the first field."""
    name = first_difference(model, source.architecture)
    if name:
        theirs = source.architecture[name]
        raise ConfigError(
            f"model.{name}={getattr(model, name)}: {source.folder} has {theirs}; leave model.{name} and model=… out, "
            f"or set model.{name}={'null' if theirs is None else theirs}"
            f"{', or model.extend_context=true to train on with other positions' * (name in POSITIONS)}."
        )
    if source.positions is not None and sequence_length > source.positions and not model.extend_context:
        raise ConfigError(
            f"data.sequence_length={sequence_length}: {source.folder} has max_position_embeddings={source.positions}; "
            "lower the one, or set model.extend_context=true to train it for positions that it doesn't know."
        )
    if source.window is not None and sequence_length > source.window:
        raise ConfigError(
            f"data.sequence_length={sequence_length}: attention of {source.folder} sees {source.window} tokens "
            f"(sliding_window), and our decoder's sees all; use data.sequence_length={source.window} or less, or "
            "model.path=DIR for Hugging Face's own code."
        )


def _ours(config: Any, source: Path) -> dict[str, Any]:
    model = config.get("model") if isinstance(config, Mapping) else None
    if not isinstance(model, Mapping):
        raise InputError(f"{source}: no section model is there; restore the file.")
    if model.get("path"):
        raise ConfigError(
            f"model.init_from={source.parent}: trained by Hugging Face's code; export it (banyan export), and begin "
            "with model.path=DIR."
        )
    if model.get("kind", "decoder") != "decoder":
        raise ConfigError(
            f"model.init_from={source.parent}: a run of model={model['kind']}, which isn't adapted; train it further "
            "by checkpoint.fork_from."
        )
    check_numbers(model, str(source))
    architecture = {name: value for name, value in model.items() if name in ARCHITECTURE}
    try:
        check_values(from_values(Model, architecture, "model."), "model.")
        settle_scaling(architecture.get("rope_scaling", {}))
    except (ValueError, ConfigError) as error:
        raise InputError(f"{source}: {error}; restore its configuration.") from error
    return architecture


def _load(path: Path) -> dict[str, Any]:
    if path.suffix == ".yaml":
        return load_values(path)
    try:
        return dict(read_json_object(path))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: can't be read ({(str(error).splitlines() or ['?'])[0]}).") from error


def _tokenizer(folder: Path) -> Path | None:
    file = folder / "tokenizer.json"
    return file if file.is_file() else None

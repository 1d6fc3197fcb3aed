"""The folder of a Hugging Face model that Hugging Face's own code trains (model.path), and the run's copy of it.

RUN/model/ holds the config.json that counts, overrides applied, so that nothing but initial weights needs the folder.
Nothing heavy is imported.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from trainer.config import Model
from trainer.errors import ConfigError
from trainer.machine.durable import write_json
from trainer.machine.hub_name import is_hub_name, local_folder
from trainer.model.hugging_face.claimed_sizes import require_widths
from trainer.model.hugging_face.config_json import check_doors, read_json_object
from trainer.model.hugging_face.safetensors_folder import find_tensors, holds_tensors

CONFIG = "config.json"
GENERATION = "generation_config.json"
# Of config.json, what says nothing about the function that the weights compute
INCIDENTAL = ("transformers_version", "dtype", "torch_dtype", "_name_or_path", "architectures", "use_cache")


def with_absolute_folders(model: Model) -> Model:
    """The model, independent of where the command was given."""

    def absolute(path: str | None) -> str | None:
        return str(Path(path).expanduser().absolute()) if path and not is_hub_name(path) else path

    return dataclasses.replace(model, init_from=absolute(model.init_from), path=absolute(model.path))


def find_model(model: Model, run_dir: Path) -> Model:
    """`model` as its folder describes it, or where that is gone, as the run's copy does. ConfigError if neither can.

    A model of ours is described by its keys alone.
    """
    if model.path is None:
        return model
    folder = local_folder(str(model.path))
    if (folder / CONFIG).is_file():
        if holds_tensors(folder) and not (run_dir / "model" / CONFIG).is_file():
            # refuses broken files early; a run that goes on doesn't read them
            tensors, source = find_tensors(folder), folder / CONFIG
            require_widths(read_json_object(source), tensors.values(), source, apart_from=model.overrides)
        return model
    if (run_dir / "model" / CONFIG).is_file():
        return own_model(model, run_dir)
    raise _missing(folder)


def _missing(folder: Path) -> ConfigError:
    if folder.is_dir():
        return ConfigError(f"model.path={folder}: no {CONFIG} there; give the folder of a Hugging Face model.")
    return ConfigError(
        f"model.path={folder}: there is no such folder, and nothing is downloaded; fetch the model first, as by "
        "`hf download NAME --local-dir DIR`, and set model.path=DIR."
    )


def own_model(model: Model, run_dir: Path) -> Model:
    """`model` as the run directory's own copy describes it; one of our decoders is itself."""
    if model.path is None:
        return model
    return dataclasses.replace(model, path=str(run_dir / "model"), overrides={})


def keep_model(run_dir: Path, model: Model, source: Model, *, resumed: bool) -> None:
    """Writes RUN/model/ from `source`, or if the run is resumed, refuses a model that has become another.

    Rank 0 calls it. A model of ours needs no copy. A run fetched from checkpoint.dir has none yet.
    """
    if model.path is None:
        return
    from trainer.model.hugging_face.causal_lm import write_config
    from trainer.model.hugging_face.inner_folder import holds_two_heads

    folder, copy = local_folder(str(source.path)), run_dir / "model"
    if resumed and (copy / CONFIG).is_file():
        before, now = read_json_object(copy / CONFIG), write_config(source)
        if before != now and "tie_word_embeddings" in before and not before["tie_word_embeddings"]:
            # two heads, or weights that are gone by now
            now = write_config(source, apart=holds_two_heads(source) or not holds_tensors(folder))
        _require_same(before, now, folder)
        return
    if folder == copy:  # without a checkpoint, the folder's weights are still needed
        raise _missing(local_folder(model.path))
    apart = holds_two_heads(source)
    if apart:
        print(
            f"{folder}: two different heads, though {CONFIG} says tie_word_embeddings=true; they are trained apart, as "
            "transformers has them",
            flush=True,
        )
    copy.mkdir(exist_ok=True)
    write_json(copy / CONFIG, write_config(source, apart=apart))
    (copy / GENERATION).unlink(missing_ok=True)
    if (folder / GENERATION).is_file():
        generation = read_json_object(folder / GENERATION)
        check_doors(generation, str(folder / GENERATION))
        write_json(copy / GENERATION, generation)


def _require_same(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    for key in sorted((before.keys() | now.keys()) - set(INCIDENTAL)):
        if before.get(key) != now.get(key):
            raise ConfigError(
                f"{folder / CONFIG}: {key}: {before.get(key)} → {now.get(key)} can't change in a run; restore it, or "
                "begin another run with run.name."
            )


def read_own_config(run_dir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json and generation_config.json (sampling, where there is none) of a run's own copy."""
    copy = run_dir / "model"
    generation = read_json_object(copy / GENERATION) if (copy / GENERATION).is_file() else {"do_sample": True}
    return read_json_object(copy / CONFIG), generation

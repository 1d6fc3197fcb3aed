"""The base of a run with adapters: where its weights are, and that they are still those that the run began with.

A checkpoint of such a run holds adapters alone. RUN/base.json names the base, pinned to one folder and its hash.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint.complete import checkpoint_sha256
from trainer.checkpoint.fragment import WEIGHT
from trainer.checkpoint.reader import CheckpointReader
from trainer.config import Adapt, Model
from trainer.engine.initial_weights import ROWS, open_wider, with_mean_rows
from trainer.errors import InputError
from trainer.machine.durable import write_json
from trainer.machine.json_file import Count, Malformed, from_json, read_json
from trainer.machine.sealing.plaintext import plaintext_sha256
from trainer.model.adapters import base_name, initial_adapter, is_adapter
from trainer.model.build import parameter_shapes
from trainer.model.hugging_face.tensor_files import FolderReader
from trainer.model.region import Region, Source

FILE = "base.json"
HF, CHECKPOINT, PATH = "hf", "checkpoint", "path"


@dataclass(frozen=True)
class Base:
    """A base: `kind` of folder (hf, checkpoint, or path for Hugging Face's own code), and its sha256.

    `vocab_size` is that of its weights, and the ids [known, tokens) those whose rows are the mean of those before.
    """

    kind: str
    folder: str
    sha256: str
    vocab_size: Count
    known: Count
    tokens: Count
    overrides: dict[str, Any]


def read_base(run_dir: Path) -> Base | None:
    """The base of a run; None where all its weights are its own. InputError where base.json can't be read."""
    try:
        return from_json(Base, read_json(run_dir / FILE))
    except FileNotFoundError:
        return None
    except Malformed as error:
        raise InputError(f"{run_dir / FILE}: {error}; restore that file.") from error


def write_base(run_dir: Path, base: Base) -> None:
    """Writes base.json."""
    write_json(run_dir / FILE, asdict(base))


def hash_weights(folder: Path, kind: str) -> str:
    """The sha256 of what a folder's weights are: of a checkpoint's list of hashes, or of all safetensors files."""
    if kind == CHECKPOINT:
        return checkpoint_sha256(folder)
    found = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        found.update(f"{file.name} {plaintext_sha256(file)}\n".encode())
    return found.hexdigest()


def require_unchanged(base: Base, run_dir: Path) -> None:
    """Refuses a base that is gone, or isn't any more what the adapters were trained beside."""
    folder = Path(base.folder)
    if not folder.is_dir():
        raise InputError(f"{run_dir / FILE}: the run's base {folder} is gone; put it back, or edit its folder there.")
    if hash_weights(folder, base.kind) != base.sha256:
        raise InputError(f"{folder}: not the weights that {run_dir.name}'s adapters were trained beside; restore them.")


def open_base(base: Base, model: Model) -> Source:
    """The weights of the base by the names of the model without adapters, `model` being the run's."""
    shapes = parameter_shapes(model)
    folder = Path(base.folder)
    added = range(base.known, base.tokens)
    if base.kind == PATH:
        return open_wider(replace(model, path=base.folder, overrides=base.overrides), added, shapes)[0]
    narrow = {name: (base.vocab_size, *shape[1:]) if name in ROWS else shape for name, shape in shapes.items()}
    if base.kind == HF:
        weights: Source = FolderReader(folder).read
    else:
        reader = CheckpointReader(folder)
        reader.check_shapes(narrow)
        weights = reader.read
    return with_mean_rows(weights, narrow, added, ROWS) if added else weights


def with_adapters(base: Source, shapes: dict[str, tuple[int, ...]], trained: Source | None, *, seed: int) -> Source:
    """The weights of a model with adapters, by its names and `shapes`: of the base, and adapters.

    These are `trained` ones of a checkpoint, where there is one, or new; so are other parameters that are trained.
    """

    def read(name: str, kind: str, region: Region) -> torch.Tensor:
        if trained is not None:
            return trained(name, kind, region)
        if kind != WEIGHT:
            return torch.zeros(region.count)
        if not is_adapter(name):
            return base(base_name(name), kind, region)
        width = shapes.get(f"{name.partition('.lora_')[0]}.base_layer.weight", (0, 0))[1]
        return initial_adapter(seed, name, region, lambda other, rows: base(other, WEIGHT, rows), width)

    return read


def check_adapters(trained: dict[str, tuple[int, ...]], adapt: Adapt) -> None:
    """Refuses a checkpoint without adapters for a run with them, in a line."""
    if adapt.name == "lora" and not any(map(is_adapter, trained)):
        raise InputError("the checkpoint has no adapters: it is of a run with adapt=full; begin another with run.name.")

"""Initial weights: by the seed, or from a folder (model.init_from or model.path) with a model that exists.

Every rank reads just what it holds. Moments begin at zero and steps at 0, as in any new run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint.find import find_newest, find_problem
from trainer.checkpoint.fragment import WEIGHT
from trainer.checkpoint.reader import CheckpointReader
from trainer.config import Model
from trainer.data.tokens.manifest import Manifest
from trainer.data.tokens.tokenizer import tokenizer_sha256
from trainer.data.tokens.tokenizer_file import read_tokenizer, rust_errors
from trainer.errors import ConfigError, InputError
from trainer.model.build import initial_weights
from trainer.model.hugging_face.architecture import EMBEDDING, HEAD
from trainer.model.hugging_face.init_folder import InitFolder, find_init_folder, hf_folder, require_fit
from trainer.model.hugging_face.inner_folder import has_weights, open_inner_weights
from trainer.model.hugging_face.tensor_files import FolderReader
from trainer.model.region import Region, Source
from trainer.ranks.mesh import Mesh


def open_initial_weights(
    model: Model, manifest: Manifest, shapes: Mapping[str, tuple[int, ...]], mesh: Mesh, *, sequence_length: int
) -> Source | None:
    """The source of a new run's first state, or None where it is the seed. Every rank calls it.

    Refuses a folder that doesn't fit the model, or whose tokenizer isn't that of the data.
    """
    if model.path is not None and has_weights(Path(model.path)):
        init_folder = hf_folder(Path(model.path))
        mesh.main_finds(lambda: check_tokenizer(init_folder, manifest, key="model.path"))
        weights, place = open_inner_weights(model, shapes)
    elif model.init_from is not None:
        init_folder = find_init_folder(model.init_from)
        require_fit(model, init_folder, sequence_length)
        mesh.main_finds(lambda: check_tokenizer(init_folder, manifest, key="model.init_from"))
        weights, place = open_weights(init_folder, shapes, mesh, tied=model.tie_word_embeddings)
    else:
        return None
    if mesh.is_main:
        unchecked = (
            "" if init_folder.tokenizer else "; it holds no tokenizer.json, so that its ids are the data's is assumed"
        )
        print(f"initial weights from {place}{unchecked}", flush=True)

    def read(name: str, kind: str, region: Region) -> torch.Tensor:
        return weights(name, kind, region) if kind == WEIGHT else torch.zeros(region.count)

    return read


def seeded_weights(model: Model, seed: int) -> Source:
    """Weights by the seed as a source of regions; moments are zeros."""
    make = initial_weights(model, seed)

    def read(name: str, kind: str, region: Region) -> torch.Tensor:
        return make(name, region) if kind == WEIGHT else torch.zeros(region.count)

    return read


def open_weights(
    init_folder: InitFolder, shapes: Mapping[str, tuple[int, ...]], mesh: Mesh, *, tied: bool
) -> tuple[Source, str]:
    """The weights of a folder, checked against the model's `shapes`, and where they lie."""
    if init_folder.kind == "hf":
        folder = FolderReader(init_folder.folder)
        mesh.main_finds(lambda: check_head(folder, tied=tied))
        return folder.read, str(init_folder.folder)
    if init_folder.kind == "run":
        newest, _ = find_newest(init_folder.folder, mesh)
    else:
        newest = init_folder.folder
        problem = mesh.first(find_problem(newest, part=mesh.rank, parts=mesh.world_size))
        if problem:
            raise InputError(f"model.init_from={newest}: not whole ({problem}); choose another checkpoint.")
    if newest is None:
        raise InputError(f"model.init_from={init_folder.folder}: the run has no checkpoint yet; choose another.")
    reader = CheckpointReader(newest)
    reader.check_shapes(dict(shapes))
    return reader.read, str(newest)


def check_head(folder: FolderReader, *, tied: bool) -> None:
    """Refuses a head that is told to be the embedding and holds something else: there, they would be two."""
    if tied and HEAD in folder.tensors and not folder.equal(HEAD, EMBEDDING):
        raise InputError(
            f"{folder.folder}: {HEAD} isn't {EMBEDDING}, though config.json says tie_word_embeddings=true; set that to "
            f"false if the head is meant, or remove {HEAD} from the file."
        )


def check_tokenizer(init_folder: InitFolder, manifest: Manifest, *, key: str) -> None:
    """Refuses data written with another tokenizer than the one that the weights know."""
    if init_folder.tokenizer is None or tokenizer_sha256(init_folder.tokenizer) == manifest.tokenizer_sha256:
        return
    if ids_of(init_folder.tokenizer) != ids_of(manifest.folder / "tokenizer" / "tokenizer.json"):
        raise ConfigError(
            f"{key}={init_folder.folder}: {manifest.folder} was written with another tokenizer; prepare the text "
            f"with data.tokenizer.path={init_folder.tokenizer.parent}."
        )


def ids_of(file: Path) -> Any:
    """What of a tokenizer.json decides which ids a text gets, however the file was written."""
    from tokenizers import Tokenizer

    content = read_tokenizer(file)[0]
    with rust_errors(f"{file}: no tokenizer that `tokenizers` can read"):
        content = json.loads(Tokenizer.from_str(content).to_str())
    added = {token["id"]: token["content"] for token in content.get("added_tokens") or []}
    return [content["model"], content.get("normalizer"), content.get("pre_tokenizer"), added]

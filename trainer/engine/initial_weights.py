"""Initial weights: by the seed, or from a folder (model.init_from or model.path) with a model that exists.

Every rank reads just what it holds. Moments begin at zero and steps at 0, as in any new run.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch

from trainer.checkpoint.find import find_newest, find_problem
from trainer.checkpoint.fragment import WEIGHT
from trainer.checkpoint.reader import CheckpointReader
from trainer.config import Model
from trainer.data.tokens.manifest import Manifest
from trainer.data.tokens.tokenizer import tokenizer_sha256
from trainer.data.tokens.tokenizer_ids import extends, vocabulary_size
from trainer.errors import ConfigError, InputError
from trainer.machine.hub_name import local_folder
from trainer.model.build import initial_weights, parameter_shapes
from trainer.model.hugging_face.architecture import EMBEDDING, HEAD
from trainer.model.hugging_face.init_folder import InitFolder, find_init_folder, hf_folder, require_fit
from trainer.model.hugging_face.inner_folder import has_weights, open_inner_weights
from trainer.model.hugging_face.tensor_files import FolderReader
from trainer.model.hugging_face.vocabulary import token_parameters
from trainer.model.region import Region, Source
from trainer.ranks.mesh import Mesh

ROWS = (EMBEDDING, HEAD)  # that have a row for each token, in our decoder
MEAN_ROWS = 8192  # that are read at once


def open_initial_weights(
    model: Model,
    manifest: Manifest,
    shapes: Mapping[str, tuple[int, ...]],
    mesh: Mesh,
    *,
    sequence_length: int,
    seed: int,
) -> Source | None:
    """The source of a new run's first state, or None where it is the seed. Every rank calls it.

    Refuses a folder that doesn't fit the model, or whose tokenizer isn't that of the data.
    """
    found = find_initial_weights(model, manifest, shapes, mesh, sequence_length=sequence_length, seed=seed)
    return None if found is None else found[0]


def find_initial_weights(
    model: Model,
    manifest: Manifest,
    shapes: Mapping[str, tuple[int, ...]],
    mesh: Mesh,
    *,
    sequence_length: int,
    seed: int | None = None,
) -> tuple[Source, InitFolder, Path] | None:
    """open_initial_weights' source, the folder that was named, and the one in which the weights are."""
    wider = 0  # tokens that the data have and the weights don't know
    if model.path is not None and has_weights(local_folder(model.path)):
        init_folder = hf_folder(local_folder(model.path))
        mesh.main_finds(lambda: check_tokenizer(init_folder, manifest, key="model.path"))
        added = added_tokens(init_folder, manifest)
        weights, place = open_wider(model, added, shapes, seed=seed)
        announce_added(added, mesh)
    elif model.init_from is not None:
        init_folder = find_init_folder(model.init_from)
        stored = int(init_folder.architecture.get("vocab_size") or model.vocab_size or 0)
        wider = max(0, manifest.vocab_size - stored) if init_folder.tokenizer else 0
        fitting = replace(model, vocab_size=stored) if wider else model
        require_fit(fitting, init_folder, sequence_length)
        mesh.main_finds(lambda: check_tokenizer(init_folder, manifest, key="model.init_from"))
        narrow = {name: (stored, *shape[1:]) if wider and name in ROWS else shape for name, shape in shapes.items()}
        weights, place = open_weights(init_folder, narrow, mesh, tied=model.tie_word_embeddings)
        added = added_tokens(init_folder, manifest)
        if added:
            weights = with_mean_rows(weights, narrow, added, ROWS)
        announce_added(added, mesh)
    else:
        return None
    if mesh.is_main:
        unchecked = (
            "" if init_folder.tokenizer else "; it holds no tokenizer.json, so that its ids are the data's is assumed"
        )
        print(f"initial weights from {place}{unchecked}", flush=True)

    def read(name: str, kind: str, region: Region) -> torch.Tensor:
        return weights(name, kind, region) if kind == WEIGHT else torch.zeros(region.count)

    return read, init_folder, Path(place.partition(" (its names")[0])


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


def added_tokens(init_folder: InitFolder, manifest: Manifest) -> range:
    """Ids that the data's tokenizer has and the weights' own doesn't know."""
    if init_folder.tokenizer is None:
        return range(0)
    return range(vocabulary_size(init_folder.tokenizer), manifest.vocab_size)


def announce_added(added: range, mesh: Mesh) -> None:
    """Says, on rank 0, what becomes of tokens that the weights don't know."""
    if added and mesh.is_main:
        print(f"{len(added):,} tokens are new to the weights: their rows begin as the mean of the others", flush=True)


def open_wider(
    model: Model, added: range, shapes: Mapping[str, tuple[int, ...]], *, seed: int | None = None
) -> tuple[Source, str]:
    """open_inner_weights for a model with rows of `added` tokens, which its folder hasn't; `shapes` are with them."""
    if not added:
        return open_inner_weights(model, shapes, seed=seed)
    stored = parameter_shapes(model)
    weights, place = open_inner_weights(model, stored, seed=seed)
    return with_mean_rows(weights, stored, added, token_parameters(model)), place


def with_mean_rows(
    weights: Source, shapes: Mapping[str, tuple[int, ...]], added: range, names: Collection[str]
) -> Source:
    """`weights`, of these `shapes`, with rows for `added` tokens in the parameters `names`: the mean of those before.

    No seed has a part in it, nor how the model is cut. Shapes of regions that are asked for may have those rows.
    """

    @functools.cache
    def mean_row(name: str) -> torch.Tensor:
        width = math.prod(shapes[name][1:])
        total = torch.zeros(width, dtype=torch.float64)
        for first in range(0, added.start, MEAN_ROWS):
            last = min(added.start, first + MEAN_ROWS)
            part = weights(name, WEIGHT, Region(shapes[name], None, first * width, last * width))
            total += part.view(-1, width).double().sum(0)
        return (total / added.start).float()

    def read(name: str, kind: str, region: Region) -> torch.Tensor:
        if name not in names or kind != WEIGHT:
            return weights(name, kind, region)
        width = math.prod(shapes[name][1:])
        shift = region.slice.start * width if region.slice is not None else 0  # rows are cut, never columns
        start, stop = region.start + shift, region.stop + shift
        edges = sorted({min(max(edge, start), stop) for edge in (start, added.start * width, added.stop * width, stop)})
        pieces = []
        for first, last in pairwise(edges):
            if added.start * width <= first < added.stop * width:
                pieces.append(mean_row(name)[torch.arange(first, last) % width])
            else:
                pieces.append(weights(name, kind, Region(shapes[name], None, first, last)))
        return torch.cat(pieces) if pieces else torch.empty(0)

    return read


def check_tokenizer(init_folder: InitFolder, manifest: Manifest, *, key: str) -> None:
    """Refuses data written with another tokenizer than the one that the weights know; it may have more tokens."""
    if init_folder.tokenizer is None or tokenizer_sha256(init_folder.tokenizer) == manifest.tokenizer_sha256:
        return
    if not extends(manifest.tokenizer_file, init_folder.tokenizer):
        raise ConfigError(
            f"{key}={init_folder.folder}: {manifest.folder} was written with another tokenizer; prepare the text "
            f"with data.tokenizer.path={init_folder.tokenizer.parent}."
        )

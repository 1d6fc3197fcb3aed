"""What `banyan evaluate` scores: a run or a Hugging Face folder, on sets, each by the objective of its kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint.find import find_checkpoint
from trainer.checkpoint.fragment import kind_of_weights
from trainer.config import Data, EvaluateVerb, Model, ObjectiveSettings, Pretrain
from trainer.data.remote.fetching import Fetching
from trainer.data.tokens.dataset import Dataset, find_folder, open_dataset
from trainer.data.tokens.datasets import check_run_tokenizer, validation_paths
from trainer.data.tokens.manifest import Manifest, read_manifest
from trainer.data.tokens.packing import CUT, REJECT, SINGLE, STREAM, WHOLE, row_packing
from trainer.engine.bf16 import autocast
from trainer.errors import ConfigError, InputError, require
from trainer.evaluate.folder_model import context_of, find_model_folder, head_of, load_folder, settings_of
from trainer.evaluate.trained_model import load_model
from trainer.model.build import LanguageModel
from trainer.model.hugging_face.claimed_sizes import require_widths
from trainer.model.hugging_face.config_json import read_json_object
from trainer.model.hugging_face.folder import CONFIG
from trainer.model.hugging_face.headed import wrap
from trainer.model.hugging_face.heads import CAUSAL, CLASSIFY, HEADS, SEQ2SEQ
from trainer.model.hugging_face.safetensors_folder import find_tensors
from trainer.model.hugging_face.suitability import first_position, require_vocabulary
from trainer.objective.build import check_datasets, extra_ids_of, members_of
from trainer.objective.pairs import SIDES
from trainer.ranks.mesh import Mesh
from trainer.run.directory import read_config, require_run_dir
from trainer.run.judge import identify_checkpoint, identify_folder
from trainer.run.objective import settle_objective
from trainer.run.rank_log import log_to_file


@dataclass(frozen=True)
class Scored:
    """A set, and by what: `objective` and `data` are the run's, or what they are for a set of another kind."""

    dataset: Dataset
    objective: ObjectiveSettings
    data: Data
    seed: int
    model: Model


@dataclass(frozen=True)
class Subject:
    """What is scored: `name` says where it lies, `config` how it was trained, or how a folder would be.

    `load` makes the model for a device; `tokenizer` is the tokenizer.json whose ids it knows. `identify` tells what was
    loaded from other models.
    """

    name: str
    config: Pretrain
    tokenizer: Path
    load: Callable[[Model, torch.device], LanguageModel]
    identify: Callable[[LanguageModel], dict[str, Any]]
    folder: Path | None = None

    def fit(self, manifest: Manifest) -> Pretrain:
        """Its configuration with the objective and the packing of a set's kind."""
        if self.folder is None:
            return _fit_run(self.config, manifest)
        return settle_objective(_fit_folder(self.config, manifest))


def find_run(config: EvaluateVerb, mesh: Mesh) -> Subject:
    """run.dir's checkpoint. Every rank calls it."""
    run_dir = require_run_dir(config.run.dir)
    run = read_config(run_dir)
    log_to_file(run_dir, mesh.rank)
    checkpoint = mesh.main_finds(lambda: find_checkpoint(run_dir, config.checkpoint.step))
    kind = kind_of_weights(config.checkpoint)

    def load(model: Model, device: torch.device) -> LanguageModel:
        dtype = torch.bfloat16 if run.has_bf16_weights else torch.float32
        found = load_model(model, checkpoint, device, dtype, kind=kind, adapt=run.adapt)
        if run.autocasts:
            autocast(found, device)
        return found

    identify = partial(identify_checkpoint, checkpoint, kind)
    return Subject(str(checkpoint), run, run_dir / "tokenizer" / "tokenizer.json", load, identify)


def find_hugging_face(config: EvaluateVerb) -> Subject:
    """The folder that `path` names, in fp32, as if it were to be trained on rows of data.sequence_length."""
    folder = find_model_folder(str(config.path))
    head = head_of(folder)
    require(
        bool(config.data.path or config.data.validation),
        f"path={config.path}: give data.path=DIR with token shards of its tokenizer, or evaluate.tasks.",
    )
    model, seen = Model(path=str(folder), head=head), context_of(folder)
    if head == CAUSAL:
        model = settings_of(folder)
    else:
        require_widths(read_json_object(folder / CONFIG), find_tensors(folder).values(), folder / CONFIG)
        with torch.device("meta"):
            seen -= first_position(wrap(model).inner)
    length = min(config.data.sequence_length, seen)
    as_trained = Pretrain()
    as_trained.model, as_trained.objective = model, ObjectiveSettings(name=HEADS[head].objective)
    as_trained.data = replace(config.data, sequence_length=length)

    def load(model: Model, device: torch.device) -> LanguageModel:
        return load_folder(folder, device, None if head == CAUSAL else model)

    cut = f" (rows of {length} tokens, all that it sees)" if length < config.data.sequence_length else ""
    name = f"{folder}{cut}"
    return Subject(name, as_trained, folder / "tokenizer.json", load, partial(identify_folder, folder), folder)


def scored_sets(subject: Subject, asked: Data) -> Iterator[Scored]:
    """The sets that are asked for, or else a run's own validation sets. ConfigError where there are none."""
    if asked.path and not asked.validation:
        paths = {Path(asked.path).name: ("data.path", asked.path)}
    else:
        chosen = validation_paths(asked if asked.validation else subject.config.data)
        paths = {name: (f"data.validation.{name}.path", path) for name, path in chosen.items()}
    if not paths:
        raise ConfigError("the run has no validation set: give data.path=DIR with token shards.")
    for name, (key, path) in paths.items():
        fetching = Fetching.of(asked)
        manifest = read_manifest(find_folder(path, key=key, split="validation", fetching=fetching))
        config = subject.fit(manifest)
        dataset = open_dataset(
            name,
            path,
            key=key,
            split="validation",
            sequence_length=config.data.sequence_length,
            packing=row_packing(config.data, seed=0),
            members=members_of(config.objective),
            fetching=fetching,
        )
        check_datasets(config.objective, [dataset])
        _check_tokens(subject, config, dataset)
        yield Scored(dataset, config.objective, config.data, config.seed, config.model)


def _check_tokens(subject: Subject, config: Pretrain, dataset: Dataset) -> None:
    """Refuses a set with tokens that the model doesn't know, or that it knows as others."""
    if subject.folder is not None and not subject.tokenizer.is_file():
        raise InputError(f"{subject.folder}: no tokenizer.json, by which its ids would be known; add it.")
    check_run_tokenizer(dataset, subject.tokenizer)
    needed, folder = dataset.manifest.vocab_size, dataset.manifest.folder
    if config.model.path is not None:
        extra = extra_ids_of(config.objective, config.data, dataset.manifest)
        require_vocabulary(config.model, needed, folder, extra=extra)
    elif config.model.vocab_size is not None and config.model.vocab_size < needed:
        raise InputError(
            f"{subject.name}: knows {config.model.vocab_size:,} tokens, and the tokenizer of {folder} has {needed:,}."
        )


def _fit_run(run: Pretrain, manifest: Manifest) -> Pretrain:
    """A policy of preferences is a causal model: texts without pairs are scored as one's."""
    if run.model.head == SEQ2SEQ:
        return _fit_seq2seq(run, manifest)
    if run.model.head == CAUSAL and SIDES in members_of(run.objective) and SIDES not in manifest.members:
        packing = WHOLE if manifest.has_targets else STREAM
        data = replace(run.data, packing=packing, long_documents=CUT)
        return replace(run, objective=ObjectiveSettings(), data=data)
    return run


def _fit_folder(config: Pretrain, manifest: Manifest) -> Pretrain:
    """By the class of its model and the kind of the data; a head of one label over pairs is a reward model's."""
    head, data = config.model.head, replace(config.data, path=str(manifest.folder), train={})
    if head == SEQ2SEQ:
        return _fit_seq2seq(replace(config, data=data), manifest)
    if head == CLASSIFY and SIDES in manifest.members:
        objective, data = ObjectiveSettings(name="reward"), replace(data, packing=SINGLE, long_documents=REJECT)
        return replace(config, objective=objective, data=data)
    if HEADS[head].is_new:
        data = replace(data, packing=SINGLE)
    return replace(config, data=data)


def _fit_seq2seq(config: Pretrain, manifest: Manifest) -> Pretrain:
    """Pairs, a row each, or spans that are dropped from plain text."""
    data = replace(config.data, packing=SINGLE if manifest.has_targets else STREAM)
    return replace(config, objective=replace(config.objective, spans=None), data=data)


def describes_order(subject: Subject) -> str | None:
    """Says that labels without names are taken in the data's order; None where the folder has names, or none at all."""
    if subject.folder is None or not HEADS[subject.config.model.head].is_new:
        return None
    if "id2label" in read_json_object(subject.folder / "config.json"):
        return None
    return f"{subject.folder}: its labels have no names, and are taken in the order of the data's"

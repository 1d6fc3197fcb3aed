"""What an objective makes of the model's configuration: the head it is asked for, its labels and its padding token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trainer.config import Model, Pretrain
from trainer.data.tokens.datasets import training_manifests
from trainer.data.tokens.manifest import Manifest
from trainer.errors import ConfigError, InputError
from trainer.machine.hub_name import local_folder
from trainer.model.hugging_face.causal_lm import read_model_config
from trainer.model.hugging_face.heads import CAUSAL, SEQ2SEQ
from trainer.model.hugging_face.safetensors_folder import holds_tensors
from trainer.objective.build import KINDS

START = "decoder_start_token_id"


def settle_objective(config: Pretrain) -> Pretrain:
    """With model.head, and where the objective has labels, those of the data, in config.json's words too.

    Reads the manifests of the training data and the folder of model.path. A run of our own decoder is itself.
    """
    kind = KINDS[config.objective.name]
    if kind.head == CAUSAL:
        return config
    model = replace(config.model, head=kind.head)
    manifests = sorted(training_manifests(config.data), key=lambda manifest: manifest.vocab_size)
    overrides = dict(model.overrides)
    if kind.has_labels:
        labels = kind.fixed_labels or _labels(manifests)
        if config.objective.labels and tuple(config.objective.labels) != labels:
            raise ConfigError(
                f"objective.labels=[{','.join(config.objective.labels)[:120]}]: the data have "
                f"{','.join(labels)[:120]} in this order: leave it out, or prepare them with data.labels in yours."
            )
        overrides["id2label"] = {str(number): label for number, label in enumerate(labels)}
        overrides["label2id"] = {label: number for number, label in enumerate(labels)}
        config = replace(config, objective=replace(config.objective, labels=list(labels)))
    model = replace(model, overrides=overrides)
    folder = local_folder(str(model.path))
    if (folder / "config.json").is_file():
        overrides |= _tokens(model, manifests[-1], has_weights=holds_tensors(folder))
    return replace(config, model=replace(model, overrides=overrides))


def _labels(manifests: list[Manifest]) -> tuple[str, ...]:
    """The labels of all sets, which must have the same."""
    first, *others = manifests
    if not first.labels:
        raise InputError(f"{first.folder}: its texts have no labels: prepare them with data.format=labelled or tagged.")
    for other in others:
        if other.labels != first.labels:
            raise InputError(
                f"{other.folder}: its labels are {', '.join(other.labels)[:80]}, those of {first.folder} "
                f"{', '.join(first.labels)[:80]}: prepare both with the same data.labels."
            )
    return first.labels


def _tokens(model: Model, manifest: Manifest, *, has_weights: bool) -> dict[str, Any]:
    """Overrides that name the data's padding and start tokens, where config.json's are none or are other tokens there.

    ConfigError where weights were trained with such a token.
    """
    known = read_model_config(model)
    text = known.get_text_config()
    special = {*manifest.special_ids.values(), manifest.end_of_text}
    found: dict[str, Any] = {}
    named = {"pad_token_id": text.pad_token_id}
    if model.head == SEQ2SEQ and hasattr(known, START):  # else targets begin after the padding token
        named[START] = getattr(known, START)
    for key, value in named.items():
        is_usable = value is not None and (value in special or manifest.vocab_size <= value < text.vocab_size)
        if key in model.overrides or is_usable:
            continue
        if value is not None and has_weights:
            raise ConfigError(
                f"{model.path}: its {key}={value} is an ordinary token of the tokenizer of {manifest.folder}; prepare "
                f"the data with the model's own tokenizer, or set model.overrides.{key}."
            )
        found[key] = _padding(manifest)
    return found


def _padding(manifest: Manifest) -> int:
    """The token that fills rows: the tokenizer's own, or the end of text."""
    return next(
        (manifest.special_ids[name] for name in ("[PAD]", "<pad>") if name in manifest.special_ids),
        manifest.end_of_text,
    )

"""The model of a Hugging Face folder, whole on this process, to answer with: its weights as they are, or in 8 bits."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint.fragment import WEIGHT
from trainer.config import Model
from trainer.errors import ConfigError, InputError
from trainer.machine.hub_name import local_folder
from trainer.model.build import LanguageModel, build_empty, outline_model, parameter_shapes
from trainer.model.decoder import Transformer
from trainer.model.hugging_face import int8_weights
from trainer.model.hugging_face.architecture import read_architecture, read_window
from trainer.model.hugging_face.causal_lm import read_model_config
from trainer.model.hugging_face.claimed_sizes import require_widths
from trainer.model.hugging_face.config_json import check_doors, read_config_json, read_json_object
from trainer.model.hugging_face.folder import CONFIG, GENERATION
from trainer.model.hugging_face.heads import CAUSAL, HEADS, SEQ2SEQ, named_head
from trainer.model.hugging_face.inner_folder import open_inner_weights
from trainer.model.hugging_face.safetensors_folder import StoredTensor, find_tensors, require_shapes, require_tensors
from trainer.model.hugging_face.suitability import require_predictions
from trainer.model.hugging_face.tensor_files import FolderReader
from trainer.model.lstm_folder import is_lstm, read_lstm_config, require_lstm_tensors
from trainer.model.region import Region, Source

POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx")
USUAL_CONTEXT = 2048  # tokens, where a folder doesn't say
AS_IT_IS: dict[str, Any] = {int8_weights.CONFIG: None}  # in the place of that field, which is read here


def find_model_folder(given: str) -> Path:
    """The Hugging Face folder that `path` names. ConfigError where it is none."""
    folder = local_folder(given)
    if not folder.is_dir():
        raise ConfigError(f"path={given}: there is no such folder, and nothing is downloaded; fetch the model first.")
    if not (folder / CONFIG).is_file() and (folder / "config.yaml").is_file():
        raise ConfigError(f"path={given}: a run directory; give it as run.dir={given}.")
    return folder


def head_of(folder: Path) -> str:
    """What a folder's model is for (heads.HEADS), by the class that its config.json names."""
    config = read_json_object(folder / CONFIG)
    head = named_head(config.get("architectures"))
    in_8_bits = int8_weights.is_int8(config, folder / CONFIG)
    return CAUSAL if head == SEQ2SEQ and not _is_seq2seq(folder, in_8_bits=in_8_bits) else head


def require_writer(folder: Path, *, key: str = "path") -> None:
    """Refuses a folder whose model neither continues a text nor answers one, before its weights are read."""
    head = head_of(folder)
    if head not in (CAUSAL, SEQ2SEQ):
        raise ConfigError(
            f"{key}={folder}: a {HEADS[head].noun} doesn't write text; measure it by banyan evaluate path={folder} "
            f'data.path=DATA, or use it by transformers\' pipeline("{HEADS[head].pipeline}").'
        )


@torch.no_grad()
def load_folder(folder: Path, device: torch.device, settings: Model | None = None) -> LanguageModel:
    """The model in evaluation mode: our decoder where that is its architecture, else Hugging Face's own code.

    `settings` ask for it under the head that they have; by default it is to predict what follows, and is refused where
    it doesn't.
    """
    config = read_json_object(folder / CONFIG)
    in_8_bits = int8_weights.is_int8(config, folder / CONFIG)
    predicts = settings is None
    settings = settings or settings_of(folder)
    tensors = find_tensors(folder)
    require_widths(config, tensors.values(), folder / CONFIG, apart_from=settings.overrides)
    plain, names = _open_weights(folder, settings, config, tensors if in_8_bits else None)
    model = build_empty(settings, device, torch.float32)
    for name, parameter in list(model.named_parameters()):
        if name not in names:
            shape = tuple(parameter.shape)
            parameter.copy_(plain(name, WEIGHT, Region.of_slice(shape, None)).view(shape))
    for name in names:
        parts = int8_weights.read_parts(name, tensors)
        inner: Any = model if isinstance(model, Transformer) else model.inner
        module = inner.get_submodule(name.rpartition(".")[0])
        weight = int8_weights.join_parts({part: values.to(device) for part, values in parts.items()}, torch.float32)
        module.weight = torch.nn.Parameter(weight, requires_grad=False)
    model.eval()
    if predicts:
        require_predictions(model)
    return model


def _open_weights(
    folder: Path, settings: Model, config: Mapping[str, Any], in_8_bits: Mapping[str, StoredTensor] | None
) -> tuple[Source, list[str]]:
    """What reads the weights, and the names of those in 8 bits, of which the tensors are given where there are any.

    InputError for files that hold another model than config.json describes, before one is made.
    """
    plain = FolderReader(folder).read
    if in_8_bits is not None:
        described = outline_model(settings)
        names = int8_weights.quantized_names(described)
        shapes = {name: tuple(parameter.shape) for name, parameter in described.named_parameters()}
        whole = {name: shape for name, shape in shapes.items() if name not in names}
        require_shapes(folder, in_8_bits, whole, config)
        for name in names:
            int8_weights.check_parts(name, shapes[name], in_8_bits, folder)
        return plain, names
    if settings.path is not None:
        return open_inner_weights(settings, parameter_shapes(settings))[0], []
    if settings.kind == "lstm":
        require_lstm_tensors(folder, parameter_shapes(settings), config)
    else:
        require_tensors(folder, settings)
    return plain, []


def settings_of(folder: Path) -> Model:
    """Of a model that writes: our decoder's, if that computes the same for every row that the folder's positions allow.

    Else the LSTM's, or those of Hugging Face's own code, for an encoder–decoder or a causal model.
    """
    in_8_bits = int8_weights.is_int8(read_json_object(folder / CONFIG), folder / CONFIG)
    config = read_config_json(folder, AS_IT_IS if in_8_bits else {})
    config.pop(int8_weights.CONFIG, None)
    if is_lstm(config):
        return read_lstm_config(config, folder / CONFIG)
    try:
        architecture = read_architecture(config, folder / CONFIG)
        window = read_window(config, folder / CONFIG)
    except InputError:
        return _theirs(folder, config, in_8_bits)
    if window is not None and window < context_of(folder):
        return _theirs(folder, config, in_8_bits)
    return Model(**architecture)


def _theirs(folder: Path, config: dict[str, Any], in_8_bits: bool) -> Model:
    """A model of Hugging Face's own code: an encoder–decoder where its class is one, else a causal one."""
    model = Model(path=str(folder), overrides=AS_IT_IS if in_8_bits else {})
    is_writer = named_head(config.get("architectures")) == SEQ2SEQ and _is_seq2seq(folder, in_8_bits=in_8_bits)
    return replace(model, head=SEQ2SEQ) if is_writer else model


def _is_seq2seq(folder: Path, *, in_8_bits: bool = False) -> bool:
    """Whether transformers knows it as an encoder–decoder: classes of models that see pictures are named likewise."""
    settings = Model(path=str(folder), head=SEQ2SEQ, overrides=AS_IT_IS if in_8_bits else {})
    with contextlib.suppress(InputError):
        read_model_config(settings)
        return True
    return False


def context_of(folder: Path) -> int:
    """The tokens that a folder's model sees at most."""
    config = read_json_object(folder / CONFIG)
    return next((config[key] for key in POSITIONS if type(config.get(key)) is int and config[key] > 0), USUAL_CONTEXT)


def end_tokens_of(folder: Path) -> frozenset[int]:
    """The tokens at which its model stops, by generation_config.json, or else by config.json: one, or a list."""
    for name in (GENERATION, CONFIG):
        if (folder / name).is_file():
            fields = read_json_object(folder / name)
            if name == GENERATION:
                check_doors(fields, str(folder / name))
            found = fields.get("eos_token_id")
            ids = found if isinstance(found, list) else [found]
            if found is not None and all(type(number) is int for number in ids):
                return frozenset(ids)
    return frozenset()

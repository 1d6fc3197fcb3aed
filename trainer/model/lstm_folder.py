"""An exported LSTM: its config.json, which Hugging Face has no class for, and parameters under their own names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.config import Model
from trainer.errors import InputError
from trainer.model.hugging_face.config_json import brief
from trainer.model.hugging_face.safetensors_folder import find_tensors, require_floats, require_shapes
from trainer.model.sizes import Shapes

KIND = "banyan_lstm"
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers")
WORD_EMBEDDINGS = "tie_word_embeddings"


def write_lstm_config(model: Model, *, context_length: int, end_of_text: int) -> dict[str, Any]:
    """config.json. `context_length` is what it was trained on; it has no limit of its own."""
    return {
        "architectures": ["BanyanLSTM"],
        "model_type": KIND,
        **{name: getattr(model, name) for name in (*SIZES, WORD_EMBEDDINGS)},
        "max_position_embeddings": context_length,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
    }


def is_lstm(config: Mapping[str, Any]) -> bool:
    """Whether a config.json describes an LSTM of ours."""
    return config.get("model_type") == KIND


def read_lstm_config(config: Mapping[str, Any], source: Path) -> Model:
    """The model of a config.json. InputError where a size is none."""
    for name in SIZES:
        value = config.get(name)
        if type(value) is not int or value < 1:
            raise InputError(f"{source}: {name}={brief(value)} is no size; export the run again.")
    return Model(kind="lstm", **{n: config[n] for n in SIZES}, tie_word_embeddings=config.get(WORD_EMBEDDINGS) is True)


def require_lstm_tensors(folder: Path, shapes: Shapes, config: Mapping[str, Any]) -> None:
    """Refuses a folder whose tensors aren't those of these parameters, which its config.json describes."""
    tensors = find_tensors(folder)
    require_shapes(folder, tensors, shapes, config)
    require_floats(tensors, shapes)

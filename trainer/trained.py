"""A trained model out of a run directory, whole on this process: what evaluate and generate begin with."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from trainer.config import Model
from trainer.data.tokenizer import Tokenizer, load_tokenizer
from trainer.engine.checkpoint import read_weights
from trainer.errors import ConfigError, InputError
from trainer.model.transformer import Transformer


def require_run_dir(run_dir: str | None) -> Path:
    """The run directory that a verb was given; ConfigError where there is none."""
    if run_dir is None:
        raise ConfigError("run.dir is not set: name a run, as in run.dir=runs/NAME.")
    path = Path(run_dir)
    if not path.is_dir():
        raise ConfigError(f"run.dir={run_dir}: there is no such folder; name a run directory, as in run.dir=runs/NAME.")
    return path


def load_run_tokenizer(run_dir: Path) -> Tokenizer:
    """The tokenizer that a run was trained with, and the end-of-text token that its documents ended in."""
    folder = run_dir / "tokenizer"
    try:
        end_of_text = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))["eos_token"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{folder}: no tokenizer_config.json that names an eos_token; copy the dataset's tokenizer/ there."
        ) from error
    return load_tokenizer(folder, end_of_text)


@torch.no_grad()
def load_model(config: Model, checkpoint: Path, device: torch.device, dtype: torch.dtype) -> Transformer:
    """The model with a checkpoint's weights, in evaluation mode, whatever shape of run saved them.

    InputError if the checkpoint's parameters aren't the model's.
    """
    with torch.device("meta"):
        model = Transformer(config)
    model.to(dtype).to_empty(device=device)
    missing = dict(model.named_parameters())
    for name, weight in read_weights(checkpoint):
        parameter = missing.pop(name, None)
        if parameter is None or parameter.shape != weight.shape:
            raise InputError(
                f"{checkpoint}: {name} {tuple(weight.shape)} doesn't fit the run's config.yaml; restore that file."
            )
        parameter.copy_(weight)
    if missing:
        raise InputError(f"{checkpoint}: no weights for {', '.join(missing)}; choose another checkpoint.step.")
    return model.eval()

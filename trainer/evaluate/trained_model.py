"""A trained model, whole on this process: what evaluate and generate begin with."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from trainer.checkpoint.fragment import WEIGHT
from trainer.checkpoint.reader import read_weights
from trainer.config import Adapt, Model
from trainer.errors import InputError
from trainer.evaluate.merged import WholeWeights
from trainer.model.build import LanguageModel, build_empty
from trainer.model.hugging_face.architecture import ARCHITECTURE
from trainer.model.hugging_face.config_json import check_numbers


@torch.no_grad()
def load_model(
    config: Model,
    checkpoint: Path,
    device: torch.device,
    dtype: torch.dtype,
    *,
    kind: str = WEIGHT,
    adapt: Adapt | None = None,
) -> LanguageModel:
    """The model with a checkpoint's weights, in evaluation mode, whatever shape of run saved them.

    `kind` of fragment: the last weights, or their moving average. `adapt` is the run's; adapters are merged.
    InputError if the checkpoint's parameters aren't the model's.
    """
    check_numbers({name: getattr(config, name) for name in ARCHITECTURE}, f"{checkpoint}: its run's config.yaml")
    model = build_empty(config, device, dtype)
    missing = dict(model.named_parameters())
    adapted = adapt is not None and adapt.name != "full"
    weights = (
        WholeWeights(checkpoint, config, adapt or Adapt()).weights if adapted else partial(read_weights, checkpoint)
    )
    for name, weight in weights(kind):
        parameter = missing.pop(name, None)
        if parameter is None or parameter.shape != weight.shape:
            raise InputError(
                f"{checkpoint}: {name} {tuple(weight.shape)} doesn't fit the run's config.yaml; restore that file."
            )
        parameter.copy_(weight)
    if missing:
        raise InputError(f"{checkpoint}: no weights for {', '.join(missing)}; choose another checkpoint.step.")
    return model.eval()

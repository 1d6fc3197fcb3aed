"""The optimiser of a run: parameters in groups, and who builds it. One more is a file here and its two rows:

BUILDERS below, and OPTIMIZERS in trainer/config/optimizers.py; its defaults are conf/optimizer/NAME.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from trainer.config import Model, Optimizer
from trainer.config.optimizers import OPTIMIZERS
from trainer.engine.optimizers import adamw, lion, muon, sgd
from trainer.model.mup import rate_scale
from trainer.model.sizes import is_hidden_matrix

# Configuration, parameter groups → the optimiser. What clips it: trainer/engine/gradient_guard.py.
BUILDERS: dict[str, Callable[[Optimizer, list[dict[str, Any]]], torch.optim.Optimizer]] = {
    "adamw": adamw.build,
    "lion": lion.build,
    "muon": muon.build,
    "sgd": sgd.build,
}


def decays(parameter: nn.Parameter) -> bool:
    """Whether weight decay applies to the parameter: not to norms and biases, which have one dimension."""
    return len(getattr(parameter, "ds_shape", parameter.shape)) > 1  # ds_shape: the whole one's, under ZeRO-3


def build_optimizer(
    config: Optimizer, model: Model, parameters: Iterable[tuple[str, nn.Parameter]]
) -> torch.optim.Optimizer:
    """The optimiser over named parameters, in groups by method, weight decay and muP's scale of the learning rate.

    A group's "peak" is the learning rate that the schedule multiplies, and its "scale" what that is multiplied with.
    Its attribute `moments` is the kinds of state that it keeps for a parameter, by whether that is hidden.
    """
    state = OPTIMIZERS[config.name]
    grouped: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        hidden = state.hidden is not None and is_hidden_matrix(name)
        key = (hidden, 1.0, True) if hidden else (hidden, rate_scale(name, model), decays(parameter))
        grouped.setdefault(key, []).append(parameter)
    groups = [
        {
            "params": grouped[hidden, scale, decayed],
            "hidden": hidden,
            # decay per step is this times the rate: it is to be the same at every width (Wortsman et al., 2023)
            "weight_decay": config.weight_decay / scale if decayed else 0.0,
            "lr": config.lr * scale,
            "peak": config.lr,
            "scale": scale,
        }
        for hidden, scale, decayed in sorted(grouped, key=lambda key: (key[0], -key[1], not key[2]))
    ]
    optimizer = BUILDERS[config.name](config, groups)
    optimizer.moments = {is_hidden: state.of(is_hidden=is_hidden) for is_hidden in (False, True)}  # type: ignore[attr-defined]
    return optimizer


def moments_of(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> tuple[str, ...]:
    """The kinds of per-element state that the optimiser keeps for a parameter."""
    kinds: dict[bool, tuple[str, ...]] = optimizer.moments  # type: ignore[attr-defined]
    return kinds[getattr(parameter, "use_muon", False)]


def set_learning_rates(optimizer: torch.optim.Optimizer, rate: Callable[[float], float]) -> None:
    """Sets the rate of every group to `rate` of its peak, times its scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate(group["peak"]) * group["scale"]


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The rates of the moment, unscaled, by the names under which they are logged."""
    return {group.get("rate_name", "train/lr"): group["lr"] / group["scale"] for group in optimizer.param_groups}

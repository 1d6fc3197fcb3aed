"""The optimiser: AdamW with decay on matrices and embeddings, none on norms and biases."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from trainer.config import Optimizer

MOMENTS = ("exp_avg", "exp_avg_sq")  # per-element state of AdamW, by torch's names


def decays(name: str) -> bool:
    """Whether weight decay applies to the parameter: not to norms and biases (by name, since ZeRO-3 hides shapes)."""
    return not (name.endswith(".bias") or "norm" in name.rsplit(".", 2)[-2])


def build_optimizer(config: Optimizer, parameters: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019) over named parameters, in two groups; torch's fused kernel on any device."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in parameters:
        (decayed if decays(name) else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.lr, betas=betas, eps=config.eps, fused=True
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate

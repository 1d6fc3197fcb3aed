"""optimizer=adamw: AdamW (Loshchilov and Hutter, 2019), torch's fused one."""

from __future__ import annotations

from typing import Any

import torch

from trainer.config import Optimizer
from trainer.engine.optimizers.uncompiled import uncompiled


@uncompiled
class AdamW(torch.optim.AdamW):
    """torch's, whose fused kernel clips and skips a step as it reads the gradients (`grad_scale`, `found_inf`)."""


def settings(config: Optimizer) -> dict[str, Any]:
    """What a parameter group needs besides its rate and decay."""
    return {"betas": (config.beta1, config.beta2), "eps": config.eps}


def build(config: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser over parameter groups."""
    return AdamW([group | settings(config) for group in groups], fused=True)

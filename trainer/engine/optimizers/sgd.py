"""optimizer=sgd: stochastic gradient descent with momentum, torch's fused one.

Its decay is added to the gradient (L2), as torch and Goyal et al. (2017) have it: momentum smooths the decay, too.
"""

from __future__ import annotations

from typing import Any

import torch

from trainer.config import Optimizer
from trainer.engine.optimizers.uncompiled import uncompiled


@uncompiled
class SGD(torch.optim.SGD):
    """torch's, whose fused kernel clips and skips a step as it reads the gradients (`grad_scale`, `found_inf`)."""


def build(config: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser over parameter groups."""
    return SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)

"""optimizer=lion: Lion (Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023, algorithm 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from trainer.config import Optimizer
from trainer.engine.optimizers.uncompiled import uncompiled


@uncompiled
class Lion(torch.optim.Optimizer):
    """The update is the sign of a mean of momentum and gradient, with decoupled decay:

    u = sign(β1 · m + (1 − β1) · g);  w ← w − lr · (u + λ · w);  m ← β2 · m + (1 − β2) · g.

    As torch's fused optimisers do, a step divides gradients by `grad_scale` and leaves all as it is where `found_inf`
    isn't 0; both are tensors of one element on the device, or not there.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0})
        self._step_supports_amp_scaling = True  # torch's own mark of optimisers that read the two

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Steps every parameter that has a gradient; a closure isn't called."""
        scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_parameter(parameter, group, scale, found_inf)

    def _step_parameter(
        self, parameter: torch.Tensor, group: dict[str, Any], scale: torch.Tensor | None, found_inf: torch.Tensor | None
    ) -> None:
        state = self.state[parameter]
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(parameter)
        momentum, gradient = state["exp_avg"], parameter.grad
        assert gradient is not None
        if scale is not None:
            gradient = gradient / scale
        beta1, beta2 = group["betas"]
        update = momentum.lerp(gradient, 1 - beta1).sign_().add_(parameter, alpha=group["weight_decay"])
        stepped = parameter.add(update, alpha=-group["lr"])
        followed = momentum.lerp(gradient, 1 - beta2)
        if found_inf is not None:
            skip = found_inf > 0
            stepped, followed = torch.where(skip, parameter, stepped), torch.where(skip, momentum, followed)
        parameter.copy_(stepped)
        momentum.copy_(followed)


def build(config: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser over parameter groups."""
    return Lion([group | {"betas": (config.beta1, config.beta2)} for group in groups])

"""Muon in plain PyTorch, written from its definition and not from DeepSpeed's code.

K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024, kellerjordan.github.io/posts/muon;
decoupled weight decay as in J. Liu et al., "Muon is Scalable for LLM Training", 2025, arXiv:2502.16982.
"""

from __future__ import annotations

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5


def orthogonalize(matrix: torch.Tensor) -> torch.Tensor:
    """Five quintic Newton-Schulz steps on the singular values of matrices (…, rows, columns), in fp64."""
    a, b, c = COEFFICIENTS
    x = matrix.double()
    x = x / torch.linalg.matrix_norm(x, keepdim=True)
    for _ in range(STEPS):
        square = x @ x.mT
        x = a * x + b * square @ x + c * square @ square @ x
    return x.to(matrix.dtype)


class PlainMuon(torch.optim.Optimizer):
    """Momentum as a running mean of gradients, Nesterov's look-ahead, orthogonalization, and the scale of tall ones."""

    def __init__(self, params: list[torch.nn.Parameter], *, lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            beta = group["momentum"]
            for parameter in group["params"]:
                state, gradient = self.state[parameter], parameter.grad
                mean = beta * state.get("mean", torch.zeros_like(gradient)) + (1 - beta) * gradient
                state["mean"] = mean
                update = orthogonalize(beta * mean + (1 - beta) * gradient)
                rows, columns = parameter.shape[-2:]
                parameter *= 1 - group["lr"] * group["weight_decay"]
                parameter -= group["lr"] * max(1.0, rows / columns) ** 0.5 * update

"""Initial weights: a function of (seed, parameter name, full shape), made one parameter at a time.

So they are the same at every shape of run, in whatever order and on whichever rank they are asked for.
"""

from __future__ import annotations

import math

import torch
import xxhash
from torch import Tensor, nn

from trainer.config import Model

RESIDUAL_OUTPUTS = ("o_proj.weight", "down_proj.weight")


def initial_weight(seed: int, name: str, shape: tuple[int, ...], model: Model) -> Tensor:
    """The parameter `name` at step 0, whole, in fp32 on the CPU.

    Norms (the only vectors) are ones; matrices are normal(0, initializer_range), those that write to the residual
    stream divided by √(2 · layers), so that its variance doesn't grow with depth (GPT-2, section 2.3).
    """
    if len(shape) == 1:
        return torch.ones(shape, device="cpu")
    std = model.initializer_range
    if name.endswith(RESIDUAL_OUTPUTS):
        std /= math.sqrt(2 * model.num_hidden_layers)
    generator = torch.Generator("cpu").manual_seed(xxhash.xxh3_64_intdigest(f"{seed}/{name}".encode()))
    return torch.empty(shape, dtype=torch.float32, device="cpu").normal_(0.0, std, generator=generator)


@torch.no_grad()
def initialize(module: nn.Module, seed: int, model: Model) -> None:
    """Sets every parameter of a model that is whole on this process."""
    for name, parameter in module.named_parameters():
        parameter.copy_(initial_weight(seed, name, tuple(parameter.shape), model))

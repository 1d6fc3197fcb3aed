"""Initial weights: a function of (seed, parameter name, full shape), of which any part is drawn without the rest.

So they are the same at every shape of run, in whatever order and on whichever rank they are asked for.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trainer.config import Model
from trainer.model.mup import initial_scale
from trainer.model.normal_tiles import draw_normal
from trainer.model.region import Region

EMBEDDING = "embed_tokens.weight"
RESIDUAL_OUTPUTS = ("o_proj.weight", "down_proj.weight", "experts.down_proj")


def initial_weight(seed: int, name: str, shape: tuple[int, ...], model: Model) -> Tensor:
    """The parameter `name` at step 0, whole, in fp32 on the CPU."""
    return initial_elements(seed, name, Region.of_slice(shape, None), model).view(shape)


def initial_elements(seed: int, name: str, region: Region, model: Model) -> Tensor:
    """Elements of the parameter `name` at step 0: (region.count,) fp32 on the CPU.

    Biases are zeros and norms ones; matrices, experts' stacks of them too, are normal with `standard_deviation`.
    """
    if ".bias" in name:
        return torch.zeros(region.count, device="cpu")
    if len(region.shape) == 1:
        return torch.ones(region.count, device="cpu")
    std = standard_deviation(name, region.shape, model) * initial_scale(name, model)
    return draw_normal(f"{seed}/{name}", region, std)


def standard_deviation(name: str, shape: tuple[int, ...], model: Model) -> float:
    """Of (…, outputs, inputs): 1/√inputs, which keeps the scale of activations (LeCun et al. 1998, section 4.6).

    An embedding that isn't the head as well has 1, the scale of what the blocks add to it. Those that write to the
    residual stream are divided by √(2 · layers), so that its variance doesn't grow with depth (GPT-2, section 2.3).
    model.initializer_range, where given, takes the place of both scales. In docs/PERFORMANCE.md is what this is worth.
    """
    std = 1 / math.sqrt(shape[-1])
    if name.endswith(EMBEDDING) and not model.tie_word_embeddings:
        std = 1.0
    if model.initializer_range is not None:
        std = model.initializer_range
    return std / math.sqrt(2 * model.num_hidden_layers) if name.endswith(RESIDUAL_OUTPUTS) else std


@torch.no_grad()
def initialize(module: nn.Module, seed: int, model: Model) -> None:
    """Sets every parameter of a model that is whole on this process."""
    for name, parameter in module.named_parameters():
        parameter.copy_(initial_weight(seed, name, tuple(parameter.shape), model))

"""muP: learning rates and initial weights with which the best learning rate is the same at every width.

Yang et al., "Tensor Programs V" (2022), table 3, for Adam: what multiplies activations of growing width (hidden
matrices, head, router) learns at a rate proportional to 1 / width; head and router, whose outputs don't grow, begin
with a variance proportional to 1 / width². Nothing is multiplied in the forward pass, so export stays a copy. At
model.mup_base_width all of it is 1. Widen by more heads of the same width: attention is scaled by 1/√head_dim as ever.
"""

from __future__ import annotations

import math

from trainer.config import Model

INPUT = "embed_tokens.weight"  # of one-hot vectors, whose width doesn't count
OUTPUTS = ("lm_head.weight", "mlp.gate.weight")


def rate_scale(name: str, model: Model) -> float:
    """What the learning rate of the parameter is multiplied with."""
    vector = name.endswith(".bias") or "norm" in name.rsplit(".", 2)[-2]
    return 1.0 if vector or name.endswith(INPUT) else _narrowness(model)


def initial_scale(name: str, model: Model) -> float:
    """What the initial standard deviation of the parameter is multiplied with."""
    return math.sqrt(_narrowness(model)) if name.endswith(OUTPUTS) else 1.0


def _narrowness(model: Model) -> float:
    return model.mup_base_width / model.hidden_size if model.mup else 1.0

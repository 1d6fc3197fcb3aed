"""Initial weights of a Hugging Face model: its own rules, as a function of (seed, parameter name, shape).

transformers initializes module by module, each drawing from where the one before left off. Here only one parameter is
real at a time, all others are on meta, and its generator is seeded by its name: the same at every shape of run.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from trainer.config import Model
from trainer.errors import InputError
from trainer.model.hugging_face.headed import wrap


class InnerWeights:
    """Makes the weights of a model, one at a time."""

    def __init__(self, settings: Model, seed: int) -> None:
        self._seed = seed
        self._place = settings.path
        with torch.device("meta"):
            self._inner = wrap(settings).inner

    @torch.no_grad()
    def make(self, name: str) -> Tensor:
        """The parameter `name` at step 0, whole, in fp32 on the CPU. InputError if transformers has no rule for it.

        Rules may be the module's own or those of a module around it, which come later.
        """
        module, _, leaf = name.rpartition(".")
        parts = module.split(".") if module else []
        around = [self._inner.get_submodule(".".join(parts[:depth])) for depth in range(len(parts) + 1)]
        owner, absent = around[-1], around[-1]._parameters[leaf]
        assert absent is not None
        weight = nn.Parameter(torch.full(absent.shape, math.nan, dtype=torch.float32, device="cpu"))
        owner._parameters[leaf] = weight
        try:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(xxhash.xxh3_64_intdigest(f"{self._seed}/{name}".encode()) >> 1)
                for depth in reversed(range(len(around))):
                    _rules(around[: depth + 1])._init_weights(around[depth])
        except Exception as error:  # rules that look at other parameters, which are on meta
            raise InputError(
                f"{self._place}: Hugging Face's rule for initial {name} fails; give safetensors files."
            ) from error
        finally:
            owner._parameters[leaf] = absent
        if weight.isnan().any():
            raise InputError(f"{self._place}: transformers has no rule for initial {name}; give safetensors files.")
        return weight.data


def _rules(around: list[nn.Module]) -> Any:
    """The innermost of nested modules, outermost first, that has rules: models may hold models."""
    return next(module for module in reversed(around) if hasattr(module, "_init_weights"))

"""torch's optimisers without their compiler wrappers, which import torch's compiler: 2 s of every start.

torch wraps these methods to keep the compiler out of them. Nobody compiles them here.
"""

from __future__ import annotations

import inspect
from typing import TypeVar

import torch

Kind = TypeVar("Kind", bound=type[torch.optim.Optimizer])

WRAPPED = ("state_dict", "load_state_dict", "zero_grad", "add_param_group")


def uncompiled(optimizer: Kind) -> Kind:
    """A class decorator: the methods of torch's own optimiser, unwrapped; `step`, too, where torch wrapped it."""
    for name in WRAPPED:
        setattr(optimizer, name, inspect.unwrap(getattr(torch.optim.Optimizer, name)))
    optimizer.step = torch.no_grad()(inspect.unwrap(optimizer.step))  # type: ignore[method-assign]
    return optimizer

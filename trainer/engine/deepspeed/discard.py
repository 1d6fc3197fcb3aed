"""How a step that has been accumulated is thrown away: gradients are freed, weights and moments stay as they are.

The way of DeepSpeed's own overflow, which it takes where the gradient norm isn't finite: at stages 1 to 3 the norm is
given out as NaN. At stage 3, and offloaded, Muon's momentum would have moved before that, so it isn't asked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch


@contextlib.contextmanager
def discarding(engine: Any) -> Iterator[None]:
    """Where `engine.step()` at the end of an accumulation changes no weight and no moment."""
    stage, wrapper = engine.zero_optimization_stage(), engine.optimizer
    nan = torch.full((), torch.nan, device=engine.device)
    ways: dict[int, dict[str, Callable[..., Any]]] = {
        0: {"step": lambda *_, **__: None},
        **{stage: {"scaled_global_norm": lambda *_, **__: nan} for stage in (1, 2)},
        3: {"_apply_muon_to_accumulated_grads": lambda: None, "_get_norm_groups": lambda: [nan]},
    }
    replaced = ways[stage]
    if hasattr(wrapper, "_apply_muon_updates_cpu_offload"):
        replaced = replaced | {"_apply_muon_updates_cpu_offload": lambda: None}
    former = {name: vars(wrapper).get(name) for name in replaced}
    vars(wrapper).update(replaced)
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                del vars(wrapper)[name]
            else:
                vars(wrapper)[name] = value

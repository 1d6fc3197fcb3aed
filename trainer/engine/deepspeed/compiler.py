"""Stage 3 beside torch's compiler: blocks that compile to one graph each, and no compiler where none is asked for.

DeepSpeed brings stage 3's weights by hooks on modules. Traced, they break a block's graph in a dozen places; on a block
as a whole, whose forward alone is compiled, they stay outside of it.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import torch


def bring_whole_blocks(model: Any) -> None:
    """Has stage 3 bring and take away the weights of a block together; before DeepSpeed's `initialize`.

    Two whole blocks are then there at once, the one at work and the one that is fetched ahead.
    """
    from deepspeed.utils import set_z3_leaf_module

    for block in model.blocks:
        set_z3_leaf_module(block, True)


@contextlib.contextmanager
def unmarked_hooks() -> Iterator[None]:
    """Where DeepSpeed's `initialize` doesn't import torch's compiler, which takes seconds, to keep it out of hooks.

    Nothing that is compiled here has a hook inside of it.
    """
    from deepspeed.runtime.zero import partitioned_param_coordinator as coordinator

    for holder in (coordinator, coordinator.PartitionedParameterCoordinator):
        for function in list(vars(holder).values()):
            for marked in _marked_in(function, set()):
                marked.__dynamo_disable = marked
    disable = torch.compiler.disable
    torch.compiler.disable = _as_it_stands  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compiler.disable = disable


def _as_it_stands(function: Any) -> Any:
    return function


def _marked_in(function: Any, seen: set[int]) -> Iterator[Any]:
    """The functions inside of a decorated one for which torch._disable_dynamo would import the compiler at a call."""
    if not isinstance(function, types.FunctionType) or id(function) in seen:
        return
    seen.add(id(function))
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is not None and function.__code__ is torch._disable_dynamo(wrapped).__code__:
        yield wrapped
        return
    for each in (wrapped, *(cell.cell_contents for cell in function.__closure__ or ())):
        yield from _marked_in(each, seen)

"""How the model is cut for tensor parallelism: which parameters, along which dimension, and where.

Megatron-LM's way (Shoeybi et al. 2019, section 3): the projections into heads and into the feed-forward by outputs
(column-parallel), those back to the residual stream by inputs (row-parallel), embedding and head by vocabulary, tied or
not: what the embedding looks up is summed, logits are gathered. Router and norms are whole on every rank. A layer's
experts are dealt out whole: every rank sees all tokens and adds what its experts make of theirs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

COLUMN = r".*\.(q|k|v|gate|up)_proj\.weight"
ROW = r".*\.(o|down)_proj\.weight"
BIAS = r".*\.(q|k|v)_proj\.bias"  # goes with its weight
HEADS = r".*\.self_attn\.(q|k|v|o)_proj\.(weight|bias)"  # cut between heads: key and value heads with their queries
VOCABULARY = r"(lm_head|model\.embed_tokens)\.weight"
EXPERTS = r".*\.experts\.(gate_up|down)_proj"
HEAD_NORM = r".*\.self_attn\.[qk]_norm\.weight"  # whole, but applied to a rank's own heads: gradients are partial


@dataclass(frozen=True)
class Slice:
    """Indices [start, stop) of a dimension of a parameter; the other dimensions are whole."""

    dim: int
    start: int
    stop: int


@dataclass(frozen=True)
class Partition:
    """Which slice of each parameter one of `degree` tensor-parallel ranks holds; `shapes` are the whole ones.

    What doesn't divide evenly is cut as AutoTP does: the first ranks have one more, of `kv_heads` or of units.
    """

    shapes: dict[str, tuple[int, ...]]
    rank: int = 0
    degree: int = 1
    kv_heads: int = 1

    def slice_of(self, name: str) -> Slice | None:
        """The slice of the parameter `name` that this rank holds, or None for all of it."""
        dim = cut_dimension(name)
        if self.degree == 1 or dim is None:
            return None
        size = self.shapes[name][dim]
        parts = self.kv_heads if re.fullmatch(HEADS, name) else size
        share, over = divmod(parts, self.degree)
        start = self.rank * share + min(self.rank, over)
        stop = start + share + (self.rank < over)
        return Slice(dim, start * size // parts, stop * size // parts)

    def held_shape(self, name: str) -> tuple[int, ...]:
        """Shape of what this rank holds of the parameter, before ZeRO cuts further."""
        shape, cut = list(self.shapes[name]), self.slice_of(name)
        if cut is not None:
            shape[cut.dim] = cut.stop - cut.start
        return tuple(shape)

    def layer_specs(self) -> list[dict[str, Any]]:
        """The cut as DeepSpeed's AutoTP wants it said (tensor_parallel.partition_config.layer_specs).

        Embedding and head, of which it would leave one whole where they are tied, aren't its to cut.
        """
        return [
            {"patterns": [COLUMN + "$"], "partition_type": "column"},
            {"patterns": [ROW + "$"], "partition_type": "row"},
            {"patterns": [HEAD_NORM + "$"], "partition_type": "skip", "grad_allreduce": True},
        ]


def cut_dimension(name: str) -> int | None:
    """The dimension along which a parameter is cut, or None. A tied head has the embedding's name."""
    if any(re.fullmatch(pattern, name) for pattern in (COLUMN, BIAS, VOCABULARY, EXPERTS)):
        return 0
    return 1 if re.fullmatch(ROW, name) else None

"""Attention: rotary positions, masks that keep to a document, the key-value cache, and the kernels that use them.

Functions and the cache only; the projections around them are in transformer.py. Tensors of heads are
(batch, heads, time, head_dim) throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from trainer.model.rotary import Rotary

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def apply_rotary(heads: Tensor, rotary: Rotary) -> Tensor:
    """Turns queries or keys by their positions: in fp32, for bf16 positions go wrong in long contexts."""
    cos, sin = rotary
    first, second = heads.chunk(2, dim=-1)
    rotated = torch.cat((-second, first), dim=-1)
    return (heads * cos + rotated * sin).to(heads.dtype)


def document_positions(document_ids: Tensor) -> Tensor:
    """Positions that start again at 0 wherever the id changes. (batch, time) → (batch, time)."""
    index = torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)
    starts = document_ids[:, 1:] != document_ids[:, :-1]
    starts = F.pad(starts, (1, 0), value=True)
    return index - torch.where(starts, index, 0).cummax(dim=1).values


def causal_mask(past: int, time: int, device: torch.device) -> Tensor:
    """True where one of `time` queries that follow `past` cached tokens may look. (time, past + time)."""
    return torch.ones(time, past + time, dtype=torch.bool, device=device).tril(diagonal=past)


def document_mask(document_ids: Tensor) -> Tensor:
    """True where a query may look: not ahead, and within its document. (batch, time) → (batch, 1, time, time)."""
    same = document_ids[:, None, :, None] == document_ids[:, None, None, :]
    return same & causal_mask(past=0, time=document_ids.shape[1], device=document_ids.device)


def document_mask_mod(document_ids: Tensor) -> MaskMod:
    """`document_mask`, said pointwise for FlexAttention."""

    def allowed(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (document_ids[batch, query] == document_ids[batch, key])

    return allowed


def document_block_mask(document_ids: Tensor) -> BlockMask:
    """`document_mask` as FlexAttention's block mask, built on the ids' device without ever being dense."""
    batch, time = document_ids.shape
    return _compiled(create_block_mask)(
        document_mask_mod(document_ids), batch, None, time, time, device=document_ids.device
    )


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | BlockMask | None) -> Tensor:
    """Scaled dot-product attention with grouped keys and values; causal when there is no mask.

    queries: (batch, heads, time, head_dim); keys and values: (batch, kv_heads, past + time, head_dim), with past > 0
    only under a mask or for a single query, which sees all.
    """
    if isinstance(mask, BlockMask):
        # Inside a compiled block the kernel is compiled with it; on its own it would run as a dense reference.
        kernel = flex_attention if torch.compiler.is_compiling() else _compiled(flex_attention)
        return kernel(queries, keys, values, block_mask=mask, enable_gqa=True)
    is_causal = mask is None and queries.shape[2] > 1
    return F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, is_causal=is_causal, enable_gqa=queries.shape[1] != keys.shape[1]
    )


SPARE = 128  # tokens that a cache has room for beyond its first ones


class LayerCache:
    """Keys and values of one layer, up to `capacity` tokens; storage follows the first ones in shape, dtype, device.

    It grows with what it holds: a folder of others may claim a context that no memory has room for.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._buffers: tuple[Tensor, Tensor] | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Adds (batch, kv_heads, time, head_dim) of each and returns all so far."""
        batch, kv_heads, time, head_dim = keys.shape
        start, self.length = self.length, self.length + time
        held = 0 if self._buffers is None else self._buffers[0].shape[2]
        if self.length > held:
            shape = (batch, kv_heads, min(self.capacity, max(2 * held, self.length + SPARE)), head_dim)
            wider = (keys.new_empty(shape), values.new_empty(shape))
            for buffer, old in zip(wider, self._buffers or (), strict=False):
                buffer[:, :, :start] = old[:, :, :start]
            self._buffers = wider
        assert self._buffers is not None
        for buffer, new in zip(self._buffers, (keys, values), strict=True):
            buffer[:, :, start : self.length] = new
        all_keys, all_values = self._buffers
        return all_keys[:, :, : self.length], all_values[:, :, : self.length]

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | BlockMask | None) -> Tensor:
        """Adds keys and values, and lets the queries of their tokens attend to all so far; shapes are `attend`'s."""
        return attend(queries, *self.append(keys, values), mask)

    def keep(self, rows: list[int]) -> None:
        """Forgets all rows of the batch but these."""
        if self._buffers is not None:
            self._buffers = (self._buffers[0][rows], self._buffers[1][rows])


class KeyValueCache:
    """What generation remembers of the tokens so far: a LayerCache for each block."""

    def __init__(self, layers: int, capacity: int) -> None:
        self.layers = [LayerCache(capacity) for _ in range(layers)]

    @property
    def length(self) -> int:
        """Tokens held."""
        return self.layers[0].length

    def positions(self, time: int, device: torch.device) -> Tensor:
        """Those of `time` tokens that follow. (1, time)."""
        return torch.arange(self.length, self.length + time, device=device)[None]

    def keep(self, rows: list[int]) -> None:
        """Forgets all rows of the batch but these."""
        for layer in self.layers:
            layer.keep(rows)


class JoinedLayer:
    """One layer's caches of rows that hold different numbers of tokens: each row attends to its own, in turn."""

    def __init__(self, rows: list[LayerCache]) -> None:
        self._rows = rows

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | BlockMask | None) -> Tensor:
        """LayerCache.attend, row by row: (rows, heads, 1, head_dim) → the same."""
        each = zip(self._rows, queries.split(1), keys.split(1), values.split(1), strict=True)
        return torch.cat([cache.attend(query, key, value, mask) for cache, query, key, value in each])


class JoinedCache:
    """The caches of several rows, which a step with one token of each extends: there is no padding.

    Only attention is a row's own; every other product is that of all rows.
    """

    def __init__(self, rows: list[KeyValueCache]) -> None:
        self._rows = rows
        self.layers = [JoinedLayer(list(layers)) for layers in zip(*(row.layers for row in rows), strict=True)]

    @property
    def length(self) -> int:
        """Tokens held by the longest."""
        return max(row.length for row in self._rows)

    def positions(self, time: int, device: torch.device) -> Tensor:
        """Those of one token that follows in each row. (rows, 1)."""
        if time != 1:
            raise ValueError(f"{time} tokens of each row: joined caches take one.")
        return torch.tensor([[row.length] for row in self._rows], device=device)


@lru_cache
def _compiled(function: Callable) -> Any:
    """torch.compile, asked for only where it is needed: importing the compiler takes seconds."""
    return torch.compile(function)

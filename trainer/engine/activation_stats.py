"""What is inside a decoder on one row: RMS and zeros of activations, entropy of attention, logits, experts' load.

A forward pass of its own, without gradients, in evaluation mode; its hooks are there for that pass alone.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from trainer.data.tokens.loader import Batch
from trainer.model import decoder
from trainer.model.moe import MixtureOfExperts

QUERIES = 128  # of a row whose attention is looked at, evenly spaced: all of it would grow as the square of its length


def measure_activations(module: decoder.Transformer, batch: Batch) -> dict[str, Any]:
    """Statistics of a batch of one row, as tensors on its device; lists go by block. Every rank of ZeRO-3 calls it.

    activation_rms: of what leaves each block. zero_share: of what enters its down projection; None with experts.
    attention_entropy: nats, mean over this rank's heads and QUERIES queries; None under a GPU's document mask.
    logit_max: the greatest logit. expert_load: (experts,) each, an expert's share of the token copies.
    """
    found: dict[str, list[Tensor | None]] = {name: [] for name in ("activation_rms", "zero_share", "expert_load")}
    entropies: list[Tensor | None] = []
    handles = []

    def after_block(_: nn.Module, __: Any, output: Any) -> None:
        found["activation_rms"].append(output[0].float().square().mean().sqrt())

    def before_down(_: nn.Module, arguments: Any) -> None:
        found["zero_share"].append((arguments[0] == 0).float().mean())

    def after_gate(top_k: int) -> Callable[..., None]:
        def count(_: nn.Module, __: Any, logits: Tensor) -> None:
            chosen = logits.topk(top_k, dim=-1).indices.flatten()
            found["expert_load"].append(torch.bincount(chosen, minlength=logits.shape[-1]) / chosen.numel())

        return count

    blocks: list[Any] = [*module.blocks]
    for block in blocks:
        handles.append(block.register_forward_hook(after_block))
        if isinstance(block.mlp, MixtureOfExperts):
            handles.append(block.mlp.gate.register_forward_hook(after_gate(block.mlp.top_k)))
        else:
            handles.append(block.mlp.down_proj.register_forward_pre_hook(before_down))
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad(), _watching_attention(entropies):
            largest = module(
                batch.inputs, document_ids=batch.document_ids, from_logits=lambda logits, _: logits.max(dim=-1).values
            )
    finally:
        module.train(was_training)
        for handle in handles:
            handle.remove()
    kept = {name: values for name, values in found.items() if values}
    return {**kept, "attention_entropy": entropies, "logit_max": largest.max()}


@contextlib.contextmanager
def _watching_attention(entropies: list[Tensor | None]) -> Iterator[None]:
    """Where each layer's attention adds its entropy."""
    attend = decoder.attend

    def watched(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | BlockMask | None) -> Tensor:
        entropies.append(None if isinstance(mask, BlockMask) else attention_entropy(queries, keys, mask))
        return attend(queries, keys, values, mask)

    decoder.attend = watched
    try:
        yield
    finally:
        decoder.attend = attend


def attention_entropy(queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
    """Mean entropy, in nats, of the attention of up to QUERIES evenly spaced queries of all heads; causal without mask.

    queries: (batch, heads, time, head_dim); keys: (batch, kv_heads, time, head_dim); mask as `attend` has it.
    """
    time = queries.shape[2]
    places = torch.linspace(0, time - 1, min(time, QUERIES), device=queries.device).round().long()
    allowed = decoder.causal_mask(0, time, queries.device)[None, None] if mask is None else mask
    chosen = queries.index_select(2, places).float()
    keys = keys.float().repeat_interleave(queries.shape[1] // keys.shape[1], dim=1)
    scores = chosen @ keys.transpose(2, 3) / math.sqrt(queries.shape[3])  # (batch, heads, places, time)
    log_shares = scores.masked_fill(~allowed.index_select(2, places), -torch.inf).log_softmax(dim=-1)
    return torch.special.entr(log_shares.exp()).sum(dim=-1).mean()

"""Activation checkpointing: backward computes a block again, all of it or the cheap part, rather than keeping it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts, noop_context_fn

# Kept by `selective`: they cost the time, and what lies between them (norms, rotary positions, SwiGLU) is cheap.
SAVED = {
    torch.ops.aten.mm.default,  # every projection
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.higher_order.flex_attention,
}


def recomputed(block: nn.Module, *arguments: Any, selective: bool, has_dropout: bool) -> Any:
    """`block(*arguments)`, whose backward computes it again; `selective` keeps products and attention.

    `has_dropout` says that the block draws random numbers: then backward draws the same again.
    """
    contexts = _selective_contexts if selective else noop_context_fn
    return checkpoint(block, *arguments, use_reentrant=False, preserve_rng_state=has_dropout, context_fn=contexts)


def _selective_contexts() -> Any:
    return create_selective_checkpoint_contexts(_policy)


def _policy(context: Any, operator: Any, *arguments: Any, **options: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in SAVED else CheckpointPolicy.PREFER_RECOMPUTE

"""Hugging Face's own cache of keys and values, for those of its models that take one and answer alike with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainer.model.hugging_face.causal_lm import CausalLM

PROBE = 4  # tokens
CLOSE = 0.02  # of the logits' spread


class KeyCache:
    """What generation remembers of one row; a step computes its new tokens alone."""

    def __init__(self, config: Any) -> None:
        from transformers import DynamicCache

        self._kept = DynamicCache(config=config)

    def extend(self, inner: Any, tokens: Tensor) -> Tensor:
        """Logits of tokens (1, time) that follow: (1, time, vocab_size)."""
        return inner(input_ids=tokens, past_key_values=self._kept, use_cache=True).logits


@torch.inference_mode()
def takes_keys(model: CausalLM) -> bool:
    """Whether a model's logits with a KeyCache are those without: some architectures ignore it, or have another."""
    tokens = torch.arange(1, PROBE + 1, device=next(model.parameters()).device)[None]
    cache = KeyCache(model.inner.config)
    try:
        parts = [cache.extend(model.inner, part) for part in (tokens[:, :2], tokens[:, 2:3], tokens[:, 3:])]
    except Exception:  # what a class that knows no such argument raises
        return False
    whole = model.inner(input_ids=tokens).logits.float()
    return bool((torch.cat(parts, dim=1).float() - whole).abs().max() < CLOSE * whole.std())

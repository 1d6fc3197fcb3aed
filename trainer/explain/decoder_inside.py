"""The inside of our own decoder. Attention is computed again from queries and keys: kernels don't give it out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from trainer.model.attention import apply_rotary
from trainer.model.decoder import Mix, Transformer, whole_rows


class DecoderInside:
    """See trainer.explain.inside.Inside."""

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self.embedding: nn.Embedding = model.model.embed_tokens
        self.head: nn.Module = model.lm_head

    @property
    def attention_heads(self) -> int:
        """Those of all layers."""
        return len(self._model.blocks) * self._model.config.num_attention_heads

    @torch.no_grad()
    def residuals(
        self, tokens: Tensor, *, first: int = 0, see_map: Callable[[int, Tensor], None] | None = None
    ) -> list[Tensor]:
        """After the embedding, and after each layer."""
        found: list[Tensor] = []
        with ExitStack() as undo:
            for number, block in enumerate(self._model.blocks, start=1):
                undo.callback(block.register_forward_pre_hook(_keep_input(found)).remove)
                if see_map is not None:
                    attention: Any = block.self_attn
                    attention.exchange = _watched(number, first, see_map)
                    undo.callback(setattr, attention, "exchange", whole_rows)
            last = self._model.model.norm.register_forward_pre_hook(_keep_input(found))
            undo.callback(last.remove)
            self._model.model(tokens[None], None, None)
        return found

    @torch.no_grad()
    def lens(self, residual: Tensor) -> Tensor:
        """Final norm and head."""
        logits: Tensor = self._model.lm_head(self._model.model.norm(residual))
        return logits.float()

    def logits_at(self, tokens: Tensor, position: int) -> Tensor:
        """The model's own."""
        hidden, _ = self._model.model(tokens[None], None, None)
        logits: Tensor = self._model.lm_head(hidden[0, position])
        return logits.float()


def _keep_input(found: list[Tensor]) -> Callable[..., None]:
    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        found.append(inputs[0][0])

    return keep


def _watched(number: int, first: int, see_map: Callable[[int, Tensor], None]) -> Any:
    """An exchange between the projections and the kernel that shows a layer's attention on the way."""

    def exchange(mix: Mix, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        see_map(number, _attention(queries, keys, mix.keywords["rotary"], first))  # type: ignore[attr-defined]
        return mix(queries, keys, values)

    return exchange


def _attention(queries: Tensor, keys: Tensor, rotary: tuple[Tensor, Tensor], first: int) -> Tensor:
    """Softmax of the scaled scores of the queries from `first` on: (heads, queries, time), fp32.

    queries: (1, time, heads, head_dim), before their rotation; keys the same, with kv_heads.
    """
    queries, keys = (apply_rotary(heads.transpose(1, 2), rotary)[0].float() for heads in (queries, keys))
    time = queries.shape[1]
    keys = keys.repeat_interleave(queries.shape[0] // keys.shape[0], dim=0)
    scores = queries[:, first:] @ keys.transpose(1, 2) / queries.shape[-1] ** 0.5
    seen = torch.ones(time - first, time, dtype=torch.bool, device=scores.device).tril(diagonal=first)
    return scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)

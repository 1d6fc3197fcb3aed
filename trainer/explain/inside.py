"""The inside of a model, ours or Hugging Face's, as explaining needs it: residuals, lens, attention, gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainer.errors import InputError
from trainer.explain.decoder_inside import DecoderInside
from trainer.explain.hugging_face_inside import HuggingFaceInside
from trainer.model.decoder import Transformer
from trainer.model.hugging_face.causal_lm import CausalLM

SeeMap = Callable[[int, Tensor], None]
"""Takes a layer's number, from 1, and where its heads look: (heads, queries, time), fp32."""


class Inside(Protocol):
    """A model of one row of tokens, opened up."""

    embedding: nn.Embedding
    head: nn.Module

    @property
    def attention_heads(self) -> int:
        """Those of all layers together; 0 where attention isn't a layer's way to look."""

    def residuals(self, tokens: Tensor, *, first: int = 0, see_map: SeeMap | None = None) -> list[Tensor]:
        """The residual stream: after the embedding, and after each layer; each (time, hidden_size).

        tokens: (time,). `see_map` is given the attention of the queries from position `first` on, layer by layer.
        """

    def lens(self, residual: Tensor) -> Tensor:
        """Final norm and head of any layer's residual: (n, hidden_size) → logits (n, vocab_size), fp32."""

    def logits_at(self, tokens: Tensor, position: int) -> Tensor:
        """The model's own logits after a position, (vocab_size,), fp32; gradients flow where they are enabled."""


def open_inside(model: Any, name: str) -> Inside:
    """A language model, opened up. InputError, with its `name`, where its parts aren't known."""
    if isinstance(model, Transformer):
        return DecoderInside(model)
    if isinstance(model, CausalLM):
        return HuggingFaceInside(model, name)
    raise InputError(f"{name}: what is inside such a model ({type(model).__name__}) isn't known to explain.")


def input_gradients(inside: Inside, tokens: Tensor, position: int, target: int) -> tuple[Tensor, Tensor, float]:
    """Gradients of the loss of `target` after `position` by the embeddings of the tokens up to there.

    Two of (position + 1,): gradient · embedding (Shrikumar et al. 2016; Denil et al. 2014), and the gradient's norm
    (Simonyan et al. 2013); and the loss, in nats.
    """
    embedded: list[Tensor] = []

    def as_leaf(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    handle = inside.embedding.register_forward_hook(as_leaf)
    try:
        with torch.enable_grad():
            logits = inside.logits_at(tokens[: position + 1], position)
            loss = -logits.log_softmax(dim=-1)[target]
            (gradient,) = torch.autograd.grad(loss, embedded[0])
    finally:
        handle.remove()
    gradient, vectors = gradient[0].float(), embedded[0][0].detach().float()
    return (gradient * vectors).sum(dim=-1), gradient.norm(dim=-1), loss.item()

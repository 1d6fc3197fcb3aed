"""The loss, in chunks of tokens, so that the logits of a whole batch never exist at once: not in backward either."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

IGNORED = -100  # a target that counts for nothing, as in torch and Hugging Face


# Losses of tokens, given their logits, targets and the weight of the z-loss, as `logit_losses` computes them
Measure = Callable[[Tensor, Tensor, float], Tensor]


def logit_losses(logits: Tensor, targets: Tensor, z_loss: float) -> Tensor:
    """Cross-entropy of each token, plus z_loss · logsumexp(logits)² (PaLM, section 5); 0 where the target is IGNORED.

    logits: (tokens, vocab_size); targets: (tokens,) → (tokens,) fp32.
    """
    logits = logits.float()
    losses = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
    if z_loss > 0:
        losses = losses + z_loss * logits.logsumexp(dim=-1).square() * (targets != IGNORED)
    return losses


def row_losses(
    hidden: Tensor,
    targets: Tensor,
    head: nn.Module,
    *,
    chunk: int,
    z_loss: float = 0.0,
    measure: Measure = logit_losses,
) -> Tensor:
    """Sums over each row of the cross-entropy (nats, fp32) of `head(hidden)` against `targets`.

    hidden: (batch, time, hidden_size); targets: (batch, time) int64, IGNORED where masked → (batch,).
    `chunk` tokens' logits are held at a time. Backward computes them again, but for the last chunk's, which it needs
    first. `head` is called as a module, once per chunk and again in backward, so that hooks on it can bring its weight.
    `measure` may be logit_losses compiled, which passes over the logits fewer times.
    """

    def chunk_losses(states: Tensor, wanted: Tensor) -> Tensor:
        return measure(head(states), wanted, z_loss)

    pieces = list(zip(hidden.flatten(0, 1).split(chunk), targets.flatten().split(chunk), strict=True))
    losses = []
    for index, (states, wanted) in enumerate(pieces):
        if torch.is_grad_enabled() and index + 1 < len(pieces):
            loss = checkpoint(chunk_losses, states, wanted, use_reentrant=False, preserve_rng_state=False)
        else:
            loss = chunk_losses(states, wanted)
        losses.append(loss)
    return torch.cat(losses).view(targets.shape).sum(dim=1)

"""The loss, in chunks of tokens, so that the logits of a whole batch never exist at once: not in backward either."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

IGNORED = -100  # a target that counts for nothing, as in torch and Hugging Face


def row_losses(hidden: Tensor, targets: Tensor, head: nn.Module, *, chunk: int, z_loss: float = 0.0) -> Tensor:
    """Sums over each row of the cross-entropy (nats, fp32) of `head(hidden)` against `targets`.

    hidden: (batch, time, hidden_size); targets: (batch, time) int64, IGNORED where masked → (batch,).
    `chunk` tokens' logits are held at a time. Backward computes them again, but for the last chunk's, which it needs
    first. `head` is called as a module, once per chunk and again in backward, so that hooks on it can bring its weight.
    """
    pieces = list(zip(hidden.flatten(0, 1).split(chunk), targets.flatten().split(chunk), strict=True))
    losses = []
    for index, (states, wanted) in enumerate(pieces):
        if torch.is_grad_enabled() and index + 1 < len(pieces):
            loss = checkpoint(token_losses, states, wanted, head, z_loss, use_reentrant=False, preserve_rng_state=False)
        else:
            loss = token_losses(states, wanted, head, z_loss)
        losses.append(loss)
    return torch.cat(losses).view(targets.shape).sum(dim=1)


def token_losses(hidden: Tensor, targets: Tensor, head: nn.Module, z_loss: float) -> Tensor:
    """Cross-entropy of each token, plus z_loss · logsumexp(logits)² (PaLM, section 5); 0 where the target is IGNORED.

    hidden: (tokens, hidden_size); targets: (tokens,) → (tokens,) fp32.
    """
    logits = head(hidden).float()  # (tokens, vocab_size)
    losses = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
    if z_loss > 0:
        losses = losses + z_loss * logits.logsumexp(dim=-1).square() * (targets != IGNORED)
    return losses

"""The loss, in chunks of tokens, so that the logits of a whole batch never exist at once: not in backward either."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.model.head_products import MakeProducts, PlainProducts

IGNORED = -100  # a target that counts for nothing, as in torch and Hugging Face


# Numbers of tokens, (n, …), from their logits (n, vocab_size) in fp32 and from which of all (batch · time,) they are
FromLogits = Callable[[Tensor, slice], Tensor]

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


@contextlib.contextmanager
def hearing(module: Any, heard: list[Tensor]) -> Iterator[None]:
    """Where the losses of targets, which a model sums over rows, are heard: (tokens,) each, in order, no gradients.

    What backward computes again comes after, and isn't heard.
    """
    plain = module.measure

    def measure(logits: Tensor, targets: Tensor, z_loss: float) -> Tensor:
        losses: Tensor = plain(logits, targets, z_loss)
        if listens:
            heard.append(losses.detach())
        return losses

    listens, module.measure = True, measure
    try:
        yield
    finally:
        listens, module.measure = False, plain


def row_losses(
    hidden: Tensor,
    targets: Tensor,
    head: nn.Module,
    *,
    chunk: int,
    z_loss: float = 0.0,
    measure: Measure = logit_losses,
    products: MakeProducts = PlainProducts,
    least_tokens: int = 0,
) -> Tensor:
    """Sums over each row of the cross-entropy (nats, fp32) of `head(hidden)` against `targets`.

    hidden: (batch, time, hidden_size); targets: (batch, time) int64, IGNORED where masked → (batch,).
    `chunk` tokens' logits are held at a time. `measure` may be logit_losses compiled, which passes over the logits
    fewer times. Where there are several chunks, all rows must weigh the same in what backward is called on (`_Chunks`).
    `products` other than plain ones are for training a head that is a matrix; else the head is called as it is.
    The head is called as often as `least_tokens` would take, for ranks that hold a part of it each and other rows.
    """
    several = targets.numel() > chunk or products is not PlainProducts
    if several and torch.is_grad_enabled() and is_plain(head):
        assert isinstance(head, nn.Linear)
        losses = _Chunks.apply(hidden, head.weight, targets, chunk, z_loss, measure, products)
    else:
        losses = _checkpointed(hidden, targets, head, chunk, z_loss, measure)
        for _ in range(-(-least_tokens // chunk) - -(-targets.numel() // chunk)):
            head(hidden[:1, :1])
    return losses.view(targets.shape).sum(dim=1)


def is_plain(head: nn.Module) -> bool:
    """Whether a head is nothing but a matrix that is here: ZeRO-3 brings it by hooks, tensor parallelism cuts it."""
    return type(head) is nn.Linear and head.bias is None and not head._forward_pre_hooks and not head._forward_hooks


def _checkpointed(
    hidden: Tensor, targets: Tensor, head: nn.Module, chunk: int, z_loss: float, measure: Measure
) -> Tensor:
    """Losses of tokens; backward makes logits again, but for the last chunk's, which it needs first.

    `head` is called as a module, once per chunk and again in backward, so that hooks on it can bring its weight.
    """

    wanted = targets.flatten()
    return _in_chunks(hidden, lambda states, place: measure(head(states), wanted[place], z_loss), chunk)


def token_values(hidden: Tensor, head: nn.Module, from_logits: FromLogits, *, chunk: int) -> Tensor:
    """What `from_logits` makes of every token: (batch, time, …) fp32, each of which may weigh what it will in backward.

    hidden: (batch, time, hidden_size). `chunk` tokens' logits are held at a time, and made again in backward.
    """
    values = _in_chunks(hidden, lambda states, place: from_logits(head(states).float(), place), chunk)
    return values.view(*hidden.shape[:2], *values.shape[1:])


def _in_chunks(hidden: Tensor, compute: Callable[[Tensor, slice], Tensor], chunk: int) -> Tensor:
    """What `compute` makes of `chunk` tokens' states at a time, one after the other; backward computes it again."""
    pieces = hidden.flatten(0, 1).split(chunk)
    found = []
    for index, states in enumerate(pieces):
        place = slice(index * chunk, index * chunk + len(states))
        if torch.is_grad_enabled() and index + 1 < len(pieces):
            found.append(checkpoint(compute, states, place, use_reentrant=False, preserve_rng_state=False))
        else:
            found.append(compute(states, place))
    return torch.cat(found)


class _Chunks(torch.autograd.Function):
    """Losses of tokens, whose gradients are taken chunk by chunk on the way forward, so that logits are made once.

    As Liger's fused linear cross-entropy does it (Hsu et al. 2024, arXiv:2410.10989, section 3.2). The head's gradient
    is a sum over tokens by then, so all must weigh the same in backward; else it fails.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        chunk: int,
        z_loss: float,
        measure: Measure,
        products: MakeProducts,
    ) -> Tensor:
        states = hidden.flatten(0, 1)
        by_head = products(weight, states.dtype)
        grad_hidden = torch.empty_like(states)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        losses = []
        with torch.autocast(hidden.device.type, enabled=False):
            for part, wanted, room in zip(
                states.split(chunk), targets.flatten().split(chunk), grad_hidden.split(chunk), strict=True
            ):
                found, grad_logits = _with_gradient(by_head.logits(part).requires_grad_(), wanted, z_loss, measure)
                losses.append(found)
                by_head.grad_hidden(grad_logits, room)
                if grad_weight is not None:
                    add_product(grad_weight, grad_logits.T, part)
                del grad_logits  # or the next chunk's logits would come on top
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.shape, ctx.dtype = hidden.shape, weight.dtype
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        factor = gradient[0]
        torch._assert_async((gradient == factor).all(), "rows of several chunks must weigh the same in the loss")
        # In place: they are large, and nobody needs them again
        of_weight = None if grad_weight is None else grad_weight.mul_(factor).to(ctx.dtype)
        return grad_hidden.mul_(factor).view(ctx.shape), of_weight, None, None, None, None, None


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, in the precision of `total`, (n, m), whatever the factors' is.

    On a GPU in one product, which reads and writes the total once: a product by itself would be written in bf16, read,
    and added to the total, at 10 bytes an element.
    """
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    elif total.device.type != "cpu":
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        total += left @ right


@torch.enable_grad()
def _with_gradient(logits: Tensor, targets: Tensor, z_loss: float, measure: Measure) -> tuple[Tensor, Tensor]:
    """Losses of tokens, (tokens,), and the gradient of their sum, as `logits`."""
    losses = measure(logits, targets, z_loss)
    (grad_logits,) = torch.autograd.grad(losses.sum(), logits)
    return losses.detach(), grad_logits

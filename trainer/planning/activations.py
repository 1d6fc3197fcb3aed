"""What a micro-batch leaves in memory between forward and backward, and what backward needs besides; bytes of a rank.

Counted from the operations of model/decoder.py and model/loss.py, by what autograd keeps of each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainer.model.sizes import head_width
from trainer.planning.layout import Layout


@dataclass(frozen=True)
class Activations:
    """Bytes that autograd keeps, and that a pass through a block or the loss has in hand on top of it."""

    saved: int  # of a block, from its forward to its backward
    recomputed: int  # of a block whose backward has computed it again, beyond what was saved
    working: int  # gradients in flight in a block's backward
    ends: int  # embedding, last norm, rotary tables, masks: saved, but of no block
    loss: int  # logits and their gradients, of one chunk


def activations_of(layout: Layout) -> Activations:
    """What a micro-batch of a layout takes."""
    mode, compiled = layout.config.train.activation_checkpointing, layout.config.train.compile
    everything = _block(layout, fused=bool(compiled))
    saved = {"none": everything, "full": layout.activation, "selective": layout.activation + _products(layout)}[mode]
    return Activations(
        saved=saved,
        recomputed=0 if mode == "none" else everything - (0 if mode == "full" else _products(layout)),
        working=_working(layout),
        ends=_ends(layout),
        loss=_loss(layout),
    )


def block_traffic(layout: Layout) -> int:
    """Bytes that pass between the operations of a block, each counted once: all that autograd would keep."""
    return _block(layout, fused=bool(layout.config.train.compile))


def _block(layout: Layout, *, fused: bool) -> int:
    """All that autograd keeps of a block; `fused`: compiled, what is cheap to compute again isn't kept."""
    norms = 2 * _norm(layout, layout.config.model.hidden_size, fused=fused)
    products = _attention(layout, fused=fused) + _feed_forward(layout, fused=fused)
    return norms + products + _dropout(layout) + _bf16_copies(layout, ".layers.0.")


def _bf16_copies(layout: Layout, part: str) -> int:
    """Of fp32 matrices, as autocast multiplies them; backward needs them again, and compiled blocks keep them, too."""
    if not layout.config.autocasts:
        return 0
    matrices = [shape for name, shape in layout.held.items() if part in name and len(shape) > 1]
    return sum(map(math.prod, matrices)) * layout.width


def _norm(layout: Layout, size: int, *, fused: bool) -> int:
    """RMSNorm of `size` numbers per token: its input in fp32, that normed, and the result, which what follows keeps."""
    if fused:
        return layout.tokens * size * 2 * layout.width
    return layout.tokens * size * (4 + 2 * layout.width)


def _attention(layout: Layout, *, fused: bool) -> int:
    """Rotated queries and keys, values and the mix of them, and a logsumexp in fp32 per query and head.

    Of what norms of queries and keys make, only the rotated version is kept.
    """
    model = layout.config.model
    queries, keys = layout.rows_of("self_attn.q_proj"), layout.rows_of("self_attn.k_proj")
    saved = layout.tokens * (2 * queries + 2 * keys) * layout.width
    if fused and not layout.cuda:  # the mix once more, by tokens: on a GPU that is how the kernel lays it out
        saved += layout.tokens * queries * layout.width
    if model.qk_norm:
        saved += _norm(layout, queries + keys, fused=fused) - layout.tokens * (queries + keys) * layout.width
    if layout.config.data.separates_documents and not layout.cuda:
        saved += layout.micro_batch * layout.config.data.sequence_length**2 * layout.width  # the mask, to be added
    return saved + layout.tokens * queries // head_width(model) * 4


def _feed_forward(layout: Layout, *, fused: bool) -> int:
    """SwiGLU: gate, its silu, up and the product; with experts, the same of each copy of a token, and the copies."""
    model = layout.config.model
    tensors = 3 if fused else 4
    if not model.num_experts:
        return tensors * layout.tokens * layout.rows_of("mlp.gate_proj") * layout.width
    copies = layout.tokens * model.num_experts_per_tok
    inner = 4 * model.moe_intermediate_size  # experts are never compiled
    return copies * (inner + 3 * model.hidden_size) * layout.width + layout.tokens * model.num_experts * 3 * 4


def _dropout(layout: Layout) -> int:
    """A mask after attention and one after the feed-forward."""
    return 2 * layout.activation if layout.config.model.dropout else 0


def _products(layout: Layout) -> int:
    """What `selective` keeps of a block besides its input: the results of all projections and of attention."""
    model = layout.config.model
    queries, keys = layout.rows_of("self_attn.q_proj"), layout.rows_of("self_attn.k_proj")
    inner = 0 if model.num_experts else 2 * layout.rows_of("mlp.gate_proj")
    outputs = 2 * queries + 2 * keys + inner + model.hidden_size * (1 if model.num_experts else 2)
    return layout.tokens * (outputs * layout.width + queries // head_width(model) * 4)


def _working(layout: Layout) -> int:
    """In the feed-forward's backward: gradients of both factors of SwiGLU, and of the residual stream."""
    model = layout.config.model
    if model.num_experts:
        inner = 2 * layout.tokens * model.num_experts_per_tok * (model.moe_intermediate_size + model.hidden_size)
    else:
        inner = 2 * layout.tokens * layout.rows_of("mlp.gate_proj")
    return inner * layout.width + 2 * layout.activation


def _ends(layout: Layout) -> int:
    """The last norm, the rotary tables in fp32, tokens and targets, and the head's copy in bf16."""
    model, data = layout.config.model, layout.config.data
    rows = layout.micro_batch if data.separates_documents else 1
    tables = 2 * 4 * rows * data.sequence_length * head_width(model)
    head = "embed_tokens" if model.tie_word_embeddings else "lm_head"
    ends = _norm(layout, model.hidden_size, fused=False) + tables + 2 * 8 * layout.tokens
    return ends + _bf16_copies(layout, head)


def _loss(layout: Layout) -> int:
    """A chunk's logits and what becomes of them, in fp32; or the gradient of the head's weight, twice."""
    model = layout.config.model
    chunk = min(layout.tokens, layout.loss_chunk)
    vocabulary = model.vocab_size or 0
    head = layout.held.get("lm_head.weight", layout.held["model.embed_tokens.weight"])[0] * model.hidden_size
    several = layout.tokens > layout.loss_chunk
    if several and layout.plain_head:
        # The gradients of states and head, taken on the way forward, and the logits themselves
        cast = head * layout.width if layout.bf16 else 0
        in_hand = max((3 * 4 + layout.width) * chunk * vocabulary, chunk * vocabulary * layout.width + cast)
        return layout.activation + 4 * head + in_hand
    by_logits = 3 * 4 * chunk * vocabulary + several * head * layout.width
    by_head = chunk * vocabulary * layout.width + (1 + several) * head * layout.width
    return max(by_logits, by_head)

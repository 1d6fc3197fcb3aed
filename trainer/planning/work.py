"""What a rank has to do in an optimiser step: FLOPs, bytes moved in memory, collectives. No device is known here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainer.planning.activations import block_traffic
from trainer.planning.communication import Transfer, transfers
from trainer.planning.layout import BUCKET, Layout
from trainer.planning.states import uses_bf16_optimizer

ADAMW_BYTES = 28  # of an element's step: gradient, weight and two moments read, weight and moments written
FLATTEN_BYTES = 16  # stage 0 on several ranks: fp32 gradients copied together, and back when they are reduced
BF16_OPTIMIZER_BYTES = 36  # BF16_Optimizer, beside AdamW: gradients to fp32, norm, clipping, copies to and from buffers
EAGER_LOGITS, COMPILED_LOGITS = 24, 12  # bytes moved for each logit, from the head's product back to its gradient


@dataclass(frozen=True)
class StepWork:
    """Of a micro-step, unless it says of a step. Pairs are of forward and of backward, with what it computes again."""

    linear: tuple[float, float]  # FLOPs of projections, experts and head
    attention: tuple[float, float]  # FLOPs of attention's kernels
    product_bytes: float  # that the products read and write
    kept_bytes: float  # that lie between the products of the blocks, each once
    logits_bytes: float  # moved between the head's product and its gradient
    step_bytes: float  # of a step: the optimiser, and copies that come with it
    hidden: tuple[Transfer, ...]  # of a step, beside backward
    exposed: tuple[Transfer, ...]  # of a step, with nothing beside
    last_bucket: float  # share of `hidden` that is sent when backward has ended
    overlapped_passes: int  # micro-steps of a step whose backward hides something


def work_of(layout: Layout) -> StepWork:
    """The work of a layout."""
    exchange = transfers(layout)
    return StepWork(
        linear=_linear(layout),
        attention=_attention(layout),
        product_bytes=_product_bytes(layout),
        kept_bytes=_kept_bytes(layout),
        logits_bytes=_logits_bytes(layout),
        step_bytes=_step_bytes(layout),
        hidden=tuple(one for one in exchange if _overlaps(layout, one)),
        exposed=tuple(one for one in exchange if not _overlaps(layout, one)),
        last_bucket=_last_bucket(layout),
        # in fp32 at stage 1 only the last micro-step's backward reduces; stage 3 gathers in every pass
        overlapped_passes=layout.micro_steps if layout.config.parallel.zero_stage >= 2 else 1,
    )


def _overlaps(layout: Layout, transfer: Transfer) -> bool:
    """Whether DeepSpeed moves it beside a pass: stage 3 all, 1 and 2 what reduces gradients; on a CPU nothing."""
    stage = layout.config.parallel.zero_stage
    if not layout.cuda or transfer.group != "data":
        return False
    if stage == 3:
        return True
    return stage > 0 and not uses_bf16_optimizer(layout) and transfer.op != "all_gather_into_tensor"


def _last_bucket(layout: Layout) -> float:
    """Stages 1 and 2 reduce a bucket when it is full, and the last when backward has ended."""
    if layout.config.parallel.zero_stage == 3:
        return 0.0
    return min(1.0, layout.zero("reduce_bucket_size", BUCKET) / max(1, layout.elements))


def _matrices(layout: Layout) -> list[tuple[tuple[int, ...], float]]:
    """Shapes of the blocks' matrices on this rank, each with the share of tokens that it multiplies."""
    share = layout.config.model.num_experts_per_tok / max(1, layout.config.model.num_experts)
    return [
        (shape, share if ".experts." in name else 1.0)
        for name, shape in layout.held.items()
        if len(shape) > 1 and ".layers." in name
    ]


def _head(layout: Layout) -> tuple[int, ...]:
    return layout.held.get("lm_head.weight", layout.held["model.embed_tokens.weight"])


def _linear(layout: Layout) -> tuple[float, float]:
    """FLOPs of projections, experts and head: forward; backward, with what it recomputes."""
    blocks = sum(math.prod(shape) * share for shape, share in _matrices(layout))
    linear, logits = 2 * layout.tokens * blocks, 2 * layout.tokens * math.prod(_head(layout))
    again = linear if layout.config.train.activation_checkpointing == "full" else 0
    chunks = math.ceil(layout.tokens / layout.config.model.loss_chunk)
    twice = 0 if layout.plain_head else logits * (chunks - 1) / chunks
    return linear + logits, 2 * (linear + logits) + again + twice


def _attention(layout: Layout) -> tuple[float, float]:
    """FLOPs of attention's kernels, forward and backward. They skip what the causal mask hides, unlike MFU's count.

    Backward has five products for forward's two (Dao, FlashAttention-2, arXiv:2307.08691, section 4.1).
    """
    pairs = layout.tokens * layout.config.data.sequence_length / 2
    forward = 4 * pairs * layout.rows_of("self_attn.q_proj") * layout.config.model.num_hidden_layers
    again = forward if layout.config.train.activation_checkpointing == "full" else 0
    return forward, 2.5 * forward + again


def _product_bytes(layout: Layout) -> float:
    """Each product reads two matrices and writes one; forward has one for each weight, backward two."""
    passes = 4 if layout.config.train.activation_checkpointing == "full" else 3
    blocks = sum(
        layout.tokens * share * (shape[-1] + shape[-2]) + math.prod(shape) for shape, share in _matrices(layout)
    )
    rows, width = _head(layout)
    return layout.width * (passes * blocks + 3 * (layout.tokens * (rows + width) + rows * width))


def _kept_bytes(layout: Layout) -> float:
    """What is computed again is written and read again: all but the products, or all."""
    again = {"none": 1.0, "selective": 1.25, "full": 1.4}[layout.config.train.activation_checkpointing]
    return layout.config.model.num_hidden_layers * block_traffic(layout) * again


def _logits_bytes(layout: Layout) -> float:
    """The logits of a micro-batch; and the gradient of the head's weight, read and written again for every chunk."""
    model = layout.config.model
    each = COMPILED_LOGITS if layout.config.train.compile else EAGER_LOGITS
    chunks = math.ceil(layout.tokens / model.loss_chunk)
    return each * layout.tokens * (model.vocab_size or 0) + 10 * (chunks - 1) * math.prod(_head(layout))


def _step_bytes(layout: Layout) -> float:
    stage = layout.config.parallel.zero_stage
    elements = layout.share if stage else layout.elements
    moved = float(elements * (ADAMW_BYTES + layout.weight_width))
    if stage == 0 and layout.ranks > 1:
        moved += layout.elements * FLATTEN_BYTES
    if uses_bf16_optimizer(layout):
        moved += layout.elements * BF16_OPTIMIZER_BYTES
    return moved

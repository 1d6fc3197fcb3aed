"""What a rank exchanges in one optimiser step: every collective, with its bytes, by ZeRO stage and tensor degree.

The counts are DeepSpeed 0.19.8's, with our settings; a test holds them against its communication logger. Bytes are of
the tensor that a rank hands in, as the logger has them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from trainer.model.sizes import head_width
from trainer.planning.layout import ALIGNMENT, PERSISTENT, REUSE_DISTANCE, Layout, padded


@dataclass(frozen=True)
class Transfer:
    """`count` collectives of `bytes` each, among the ranks of a `group`: data, tensor or sequence."""

    op: str
    group: str
    bytes: int
    count: int = 1

    @property
    def total(self) -> int:
        """Bytes that a rank hands in."""
        return self.bytes * self.count


def transfers(layout: Layout) -> list[Transfer]:
    """Every collective of an optimiser step of a rank, AdamW's; the order has no meaning."""
    found = [*_gradients(layout), *_weights(layout), *_norm(layout)]
    if layout.config.parallel.tensor > 1:
        found += _tensor(layout)
    if layout.config.parallel.sequence > 1:
        found += _sequence(layout)
    return found


def _gradients(layout: Layout) -> Iterator[Transfer]:
    """Stages 0 and 1 reduce once a step; stages 2 and 3, which don't keep whole gradients, in every micro-step.

    A rank alone does, too, but at stage 0.
    """
    sizes = [math.prod(shape) for shape in layout.held.values()]
    stage = layout.config.parallel.zero_stage
    if stage == 0 and layout.ranks == 1:
        return
    if stage == 3:
        whole = sum(padded(size, layout.ranks) for size in sizes)
        yield Transfer("reduce_scatter_tensor", "data", whole * layout.weight_width, layout.micro_steps)
    else:
        yield Transfer("all_reduce", "data", sum(sizes) * layout.weight_width, layout.micro_steps if stage == 2 else 1)


def _weights(layout: Layout) -> Iterator[Transfer]:
    """Updated weights at stages 1 and 2, in two groups, by weight decay; at stage 3 whatever isn't kept whole."""
    stage = layout.config.parallel.zero_stage
    if stage == 0 or layout.ranks == 1:
        return
    if stage < 3:
        for vectors in (False, True):
            size = sum(math.prod(shape) for shape in layout.held.values() if (len(shape) == 1) == vectors)
            share = padded(size, layout.ranks * ALIGNMENT) // layout.ranks
            yield Transfer("all_gather_into_tensor", "data", share * layout.weight_width)
        return
    sizes = [math.prod(shape) for shape in layout.held.values()]
    later = sum(sizes)
    for size in sizes:
        later -= size
        share = padded(size, layout.ranks) // layout.ranks * layout.weight_width
        uses = 2 if 2 * later > REUSE_DISTANCE else 1
        yield Transfer("all_gather_into_tensor", "data", share, 1 if size <= PERSISTENT else uses * layout.micro_steps)


def _norm(layout: Layout) -> Iterator[Transfer]:
    """The norm, and whether it is finite: a number or two each."""
    stage = layout.config.parallel.zero_stage
    bf16 = layout.bf16
    groups = 2 if layout.config.parallel.tensor > 1 else 1
    if stage == 3:
        yield Transfer("all_reduce", "data", 8, 2 * groups)
    elif stage == 2 or (stage == 1 and not bf16):
        yield Transfer("all_reduce", "data", 4, 2 * groups)
    if stage == 2 and bf16:
        yield Transfer("all_reduce", "data", 1, groups)
    if stage == 1 and bf16 and groups == 2:
        yield Transfer("all_reduce", "tensor", 4)


def _tensor(layout: Layout) -> Iterator[Transfer]:
    """Sums of what column- and row-parallel layers make, forward and backward, and of looked-up rows of the embedding;
    the gathered logits."""
    model, micro_steps = layout.config.model, layout.micro_steps
    forward = 2  # out of attention, out of the feed-forward
    backward = 3 + (1 if model.num_experts else 2)  # into queries, keys, values; into gate and up, or all experts
    again = 0 if layout.config.train.activation_checkpointing == "none" else 1  # out of attention, in backward
    passes = model.num_hidden_layers * (forward + backward + again)
    yield Transfer("all_reduce", "tensor", layout.activation, micro_steps * passes)
    if model.num_experts:
        weights = layout.tokens * model.num_experts_per_tok * 4
        yield Transfer("all_reduce", "tensor", weights, micro_steps * model.num_hidden_layers)
    if model.qk_norm:
        gain = head_width(model) * layout.weight_width
        yield Transfer("all_reduce", "tensor", gain, micro_steps * 2 * model.num_hidden_layers)
    looked_up = layout.tokens * model.hidden_size * layout.weight_width
    yield Transfer("all_reduce", "tensor", looked_up, micro_steps)
    yield Transfer("all_reduce", "tensor", layout.activation, micro_steps)
    columns = layout.held.get("lm_head.weight", layout.held["model.embed_tokens.weight"])[0]
    for chunk, count in _chunks(layout.tokens, layout.loss_chunk):
        yield Transfer("all_gather_into_tensor", "tensor", chunk * columns * layout.width, micro_steps * count)


def _chunks(tokens: int, chunk: int) -> Iterator[tuple[int, int]]:
    """Tokens whose logits are made at once, and how often: backward makes them again, but for the last chunk's."""
    whole, rest = divmod(tokens, chunk)
    if rest:
        yield chunk, 2 * whole
        yield rest, 1
    else:
        yield chunk, 2 * whole - 1


def _sequence(layout: Layout) -> Iterator[Transfer]:
    """Ulysses: queries, keys, values and what attention makes of them change hands, forward and backward."""
    model = layout.config.model
    again = 3 if layout.config.train.activation_checkpointing != "none" else 2
    times = layout.micro_steps * model.num_hidden_layers * again
    for heads in (model.num_attention_heads, model.num_key_value_heads):
        own = heads // layout.config.parallel.tensor
        size = layout.tokens * own * head_width(model) * layout.width
        yield Transfer("all_to_all_single", "sequence", size, 2 * times)

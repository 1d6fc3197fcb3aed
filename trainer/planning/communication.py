"""What a rank exchanges in one optimiser step: every collective, with its bytes, by ZeRO stage and tensor degree.

The counts are DeepSpeed 0.19.8's, with our settings; a test holds them against its communication logger. Bytes are of
the tensor that a rank hands in, as the logger has them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from trainer.checks import micro_batch_of
from trainer.config import Pretrain
from trainer.layouts import data_ranks_of
from trainer.model.partition import Partition
from trainer.model.sizes import Shapes, head_width, parameter_shapes

# Stage 3 keeps smaller parameters whole between the steps (stage3_param_persistence_threshold), and larger ones from
# forward to backward if less than this is used in between (stage3_max_reuse_distance); both in elements.
PERSISTENT = 100_000
REUSE_DISTANCE = 1_000_000_000
ALIGNMENT = 2  # elements, times ranks: what stages 1 and 2 pad a group of parameters to


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


@dataclass(frozen=True)
class Layout:
    """What the counts depend on; sizes in elements and tokens of one rank."""

    config: Pretrain
    ranks: int  # that ZeRO shards among
    micro_steps: int
    held: Shapes  # of a tensor-parallel rank, before ZeRO cuts further

    @property
    def width(self) -> int:
        """Bytes of an activation, and of a gradient when it is exchanged."""
        return 2 if self.config.train.precision == "bf16" else 4

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch on a rank."""
        share = self.config.data.sequence_length // self.config.parallel.sequence
        return micro_batch_of(self.config.train, self.ranks) * share

    @property
    def activation(self) -> int:
        """Bytes of the hidden states of a micro-batch."""
        return self.tokens * self.config.model.hidden_size * self.width


def transfers(config: Pretrain, world_size: int) -> list[Transfer]:
    """Every collective of an optimiser step of a rank, AdamW's; the order has no meaning."""
    parallel = config.parallel
    partition = Partition(parameter_shapes(config.model), 0, parallel.tensor, config.model.num_key_value_heads)
    data_ranks = data_ranks_of(config, world_size)
    layout = Layout(
        config=config,
        ranks=world_size // parallel.tensor,
        micro_steps=config.train.batch_size // (micro_batch_of(config.train, data_ranks) * data_ranks),
        held={name: partition.held_shape(name) for name in partition.shapes},
    )
    found = [*_gradients(layout), *_weights(layout), *_norm(layout)]
    if parallel.tensor > 1:
        found += _tensor(layout)
    if parallel.sequence > 1:
        found += _sequence(layout)
    return found


def _gradients(layout: Layout) -> Iterator[Transfer]:
    """Stages 0 and 1 reduce once a step; stages 2 and 3, which don't keep whole gradients, in every micro-step."""
    sizes = [math.prod(shape) for shape in layout.held.values()]
    stage = layout.config.parallel.zero_stage
    if stage == 3:
        padded = sum(_padded(size, layout.ranks) for size in sizes)
        yield Transfer("reduce_scatter_tensor", "data", padded * layout.width, layout.micro_steps)
    else:
        yield Transfer("all_reduce", "data", sum(sizes) * layout.width, layout.micro_steps if stage == 2 else 1)


def _weights(layout: Layout) -> Iterator[Transfer]:
    """Updated weights at stages 1 and 2, in two groups, by weight decay; at stage 3 whatever isn't kept whole."""
    stage = layout.config.parallel.zero_stage
    if stage == 0 or layout.ranks == 1:
        return
    if stage < 3:
        for vectors in (False, True):
            size = sum(math.prod(shape) for shape in layout.held.values() if (len(shape) == 1) == vectors)
            share = _padded(size, layout.ranks * ALIGNMENT) // layout.ranks
            yield Transfer("all_gather_into_tensor", "data", share * layout.width)
        return
    sizes = [math.prod(shape) for shape in layout.held.values()]
    later = sum(sizes)
    for size in sizes:
        later -= size
        share = _padded(size, layout.ranks) // layout.ranks * layout.width
        uses = 2 if 2 * later > REUSE_DISTANCE else 1
        yield Transfer("all_gather_into_tensor", "data", share, 1 if size <= PERSISTENT else uses * layout.micro_steps)


def _norm(layout: Layout) -> Iterator[Transfer]:
    """The norm, and whether it is finite: a number or two each."""
    stage = layout.config.parallel.zero_stage
    bf16 = layout.config.train.precision == "bf16"
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
    """Sums of what column- and row-parallel layers make, forward and backward, and the gathered logits."""
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
        gain = head_width(model) * layout.width
        yield Transfer("all_reduce", "tensor", gain, micro_steps * 2 * model.num_hidden_layers)
    if not model.tie_word_embeddings:
        yield Transfer("all_reduce", "tensor", layout.activation, micro_steps)
        columns = layout.held["lm_head.weight"][0]
        for chunk, count in _chunks(layout.tokens, model.loss_chunk):
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
        yield Transfer(
            "all_to_all_single", "sequence", layout.tokens * heads * head_width(model) * layout.width, 2 * times
        )


def _padded(size: int, multiple: int) -> int:
    return math.ceil(size / multiple) * multiple

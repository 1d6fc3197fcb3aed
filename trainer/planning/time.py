"""How long an optimiser step takes: a roofline of matrix products, memory traffic and communication.

Matrix products run at plan.matmul_share of the peak, attention at plan.attention_share, everything between them at the
memory's bandwidth, and these take turns. Collectives move at plan.link_share of the slowest link on their way, and what
DeepSpeed overlaps with backward is hidden behind it. Launching kernels, reading data and stragglers aren't counted: a
limit, not a promise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainer.config.plan import PlanSettings
from trainer.model.sizes import active_share, count_active, decoder_shapes, head_width
from trainer.planning.activations import block_traffic
from trainer.planning.cluster import Cluster
from trainer.planning.communication import Transfer, transfers
from trainer.planning.layout import Layout
from trainer.planning.states import uses_bf16_optimizer
from trainer.track.metrics import flops_per_token

EAGER, COMPILED = 4, 2.5  # times that memory is written or read for each byte kept from forward to backward
ADAMW_BYTES = 28  # of an element's step: gradient, weight and two moments read, weight and moments written


@dataclass(frozen=True)
class StepTime:
    """Seconds of an optimiser step, by what takes them; `hidden` is communication that costs nothing."""

    matmul: float
    memory: float
    optimizer: float
    tensor: float  # tensor- and sequence-parallel exchange: nothing to overlap with
    data: float  # gradients and weights, where backward doesn't hide them
    hidden: float
    model_flops: float  # of all ranks: 6N + 12·L·H·Q·T per token
    flops_available: float  # peak of all devices, per second

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return self.matmul + self.memory + self.optimizer + self.tensor + self.data

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation in [0, 1]."""
        return self.model_flops / (self.total * self.flops_available)


def step_time(layout: Layout, cluster: Cluster, settings: PlanSettings) -> StepTime | None:
    """The step of a layout; None where the device's peak isn't known."""
    device = cluster.device
    peak = device.flops if layout.bf16 else device.flops_fp32
    if device.flops is None or peak is None:
        return None
    linear, attention = _linear(layout), _attention(layout)
    forward, backward = (
        linear[way] / (peak * settings.matmul_share) + attention[way] / (peak * settings.attention_share)
        for way in (0, 1)
    )
    matmul = layout.micro_steps * (forward + backward)
    memory = layout.micro_steps * _traffic(layout) / device.bandwidth
    exchange = dict.fromkeys(("tensor", "exposed", "hidden"), 0.0)
    for transfer in transfers(layout):
        kind = "tensor" if transfer.group != "data" else "hidden" if _overlaps(layout, transfer) else "exposed"
        exchange[kind] += transfer_seconds(transfer, layout, cluster, settings)
    # at stages 1 and 2 in fp32 only the last micro-step's backward reduces; stage 3 gathers in every pass
    passes = layout.micro_steps if layout.config.parallel.zero_stage >= 2 else 1
    room = passes * (backward + _traffic(layout) / 2 / device.bandwidth)
    hidden = min(exchange["hidden"], room)
    model = layout.config.model
    per_token = flops_per_token(
        parameters=count_active(decoder_shapes(model), model),
        layers=model.num_hidden_layers,
        heads=model.num_attention_heads,
        head_dim=head_width(model),
        sequence_length=layout.config.data.sequence_length,
    )
    return StepTime(
        matmul=matmul,
        memory=memory,
        optimizer=_optimizer_bytes(layout) / device.bandwidth,
        tensor=exchange["tensor"],
        data=exchange["exposed"] + exchange["hidden"] - hidden,
        hidden=hidden,
        model_flops=per_token * layout.config.train.batch_size * layout.config.data.sequence_length,
        flops_available=device.flops * layout.world_size,
    )


def transfer_seconds(transfer: Transfer, layout: Layout, cluster: Cluster, settings: PlanSettings) -> float:
    """A transfer's seconds: a ring's bytes over the slowest link, and the latency of its start.

    A group that fills nodes uses all their networks at once: NCCL builds a ring through each.
    """
    parallel = layout.config.parallel
    size = {"data": layout.ranks, "tensor": parallel.tensor, "sequence": parallel.sequence}[transfer.group]
    if size == 1:
        return 0.0
    stride = parallel.tensor if transfer.group == "data" else 1
    beside = max(1, min(size, cluster.per_node // stride))  # of the group, on a node
    speed = cluster.device.node_link
    if size > beside:
        speed = min(speed, beside * cluster.device.network)
    moved = {
        "all_reduce": 2 * (size - 1) / size,
        "reduce_scatter_tensor": (size - 1) / size,
        "all_gather_into_tensor": size - 1,  # a rank hands in its share
        "all_to_all_single": (size - 1) / size,
    }[transfer.op]
    hops = math.log2(size) if transfer.op == "all_reduce" else beside + math.ceil(size / beside)
    return transfer.count * (transfer.bytes * moved / (speed * settings.link_share) + hops * settings.latency_s)


def _overlaps(layout: Layout, transfer: Transfer) -> bool:
    """Whether DeepSpeed moves it beside a pass: stage 3 all, 1 and 2 what reduces gradients; on a CPU nothing."""
    stage = layout.config.parallel.zero_stage
    if not layout.cuda:
        return False
    if stage == 3:
        return True
    return stage > 0 and not uses_bf16_optimizer(layout) and transfer.op != "all_gather_into_tensor"


def _linear(layout: Layout) -> tuple[float, float]:
    """FLOPs of projections, experts and head in a micro-step on a rank: forward; backward, with what it recomputes."""
    model = layout.config.model
    blocks = sum(
        math.prod(shape) * active_share(name, model)
        for name, shape in layout.held.items()
        if len(shape) > 1 and ".layers." in name
    )
    head = layout.held.get("lm_head.weight", layout.held["model.embed_tokens.weight"])
    linear, logits = 2 * layout.tokens * blocks, 2 * layout.tokens * math.prod(head)
    again = linear if layout.config.train.activation_checkpointing == "full" else 0
    chunks = math.ceil(layout.tokens / model.loss_chunk)
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


def _traffic(layout: Layout) -> float:
    """Bytes that the operations between products move in a micro-step."""
    model, train = layout.config.model, layout.config.train
    passes = COMPILED if train.compile else EAGER
    again = {"none": 1.0, "selective": 1.25, "full": 1.4}[train.activation_checkpointing]
    blocks = model.num_hidden_layers * block_traffic(layout) * passes * again
    logits = 6 * 4 * layout.tokens * (model.vocab_size or 0)  # fp32, three times written and read
    return blocks + logits


def _optimizer_bytes(layout: Layout) -> float:
    elements = layout.share if layout.config.parallel.zero_stage else layout.elements
    return elements * (ADAMW_BYTES + layout.weight_width)

"""How long an optimiser step takes: a roofline of matrix products, memory traffic and communication.

Matrix products and attention run at shares of the peak, everything between them at the memory's bandwidth, and these
take turns. Collectives move at a share of the slowest link on their way, and what DeepSpeed overlaps with backward is
hidden behind it, as far as it lasts. The shares are fitted to published runs (calibration.py). Launching kernels,
reading data and stragglers have no terms of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from trainer.config.plan import PlanSettings
from trainer.model.sizes import count_active, decoder_shapes, head_width
from trainer.planning.calibration import Calibration, calibration_of
from trainer.planning.cluster import Cluster
from trainer.planning.communication import Transfer
from trainer.planning.layout import Layout
from trainer.planning.work import StepWork, work_of
from trainer.track.metrics import flops_per_token

BANDWIDTH_SHARE = 0.9  # of the memory's peak, that streaming kernels reach: 2.9 to 3.05 of an H100's 3.35 TB/s


@dataclass(frozen=True)
class StepTime:
    """Seconds of an optimiser step, by what takes them; `hidden` is communication that backward covers."""

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

    def scaled(self, factor: float) -> StepTime:
        """The step, every part of it so many times as long."""
        parts = ("matmul", "memory", "optimizer", "tensor", "data", "hidden")
        return replace(self, **{part: getattr(self, part) * factor for part in parts})


def step_time(layout: Layout, cluster: Cluster, settings: PlanSettings) -> StepTime | None:
    """The step of a layout; None where the device's peak isn't known."""
    return time_of(work_of(layout), layout, cluster, calibration_of(cluster.device.key, settings), settings)


def time_of(
    work: StepWork, layout: Layout, cluster: Cluster, shares: Calibration, settings: PlanSettings
) -> StepTime | None:
    """The step that has this work to do."""
    device, model = cluster.device, layout.config.model
    peak = device.flops if layout.bf16 else device.flops_fp32
    if device.flops is None or peak is None:
        return None
    width = head_width(model)
    of_attention = peak * shares.attention * min(1.0, width / 128) ** shares.narrow_heads
    forward, backward = (
        work.linear[way] / (peak * shares.matmul) + work.attention[way] / of_attention for way in (0, 1)
    )
    bandwidth = device.bandwidth * BANDWIDTH_SHARE
    spilt = shares.spill * work.product_bytes / bandwidth
    passes = shares.compiled if layout.config.train.compile else shares.eager
    memory = (passes * work.kept_bytes + work.logits_bytes) / bandwidth
    exchange = {"tensor": 0.0, "data": 0.0, "hidden": 0.0}
    for transfer in work.exposed:
        exchange["data" if transfer.group == "data" else "tensor"] += transfer_seconds(
            transfer, layout, cluster, shares, settings
        )
    beside = sum(transfer_seconds(transfer, layout, cluster, shares, settings) for transfer in work.hidden)
    room = work.overlapped_passes * (backward + 0.7 * spilt + memory / 2)
    if layout.config.parallel.zero_stage == 3:  # gathers in forward, too
        room += layout.micro_steps * (forward + 0.3 * spilt + memory / 2)
    hidden = min(beside * (1 - work.last_bucket), room)
    exchange["hidden"] = hidden
    exchange["data"] += beside - hidden * (1 - shares.contention)
    per_token = flops_per_token(
        parameters=count_active(decoder_shapes(model), model),
        layers=model.num_hidden_layers,
        heads=model.num_attention_heads,
        head_dim=width,
        sequence_length=layout.config.data.sequence_length,
    )
    return StepTime(
        matmul=layout.micro_steps * (forward + backward + spilt),
        memory=layout.micro_steps * memory,
        optimizer=work.step_bytes / bandwidth,
        tensor=exchange["tensor"],
        data=exchange["data"],
        hidden=hidden,
        model_flops=per_token * layout.config.train.batch_size * layout.config.data.sequence_length,
        flops_available=device.flops * layout.world_size,
    )


def transfer_seconds(
    transfer: Transfer, layout: Layout, cluster: Cluster, shares: Calibration, settings: PlanSettings
) -> float:
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
    share = shares.data_link if transfer.group == "data" else shares.tensor_link
    return transfer.count * (transfer.bytes * moved / (speed * share) + hops * settings.latency_s)

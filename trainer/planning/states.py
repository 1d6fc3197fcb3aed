"""What a rank holds from step to step: weights, optimiser state, gradients, buffers; on the device, and off it.

Counted from what DeepSpeed 0.19.8 allocates with our settings. Elements that ZeRO shares out are padded as it does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from trainer.config.optimizers import OPTIMIZERS
from trainer.config.training import fills_buckets, overlaps
from trainer.model.sizes import is_hidden_matrix
from trainer.planning.layout import PERSISTENT, Layout

FP32 = 4  # bytes


@dataclass(frozen=True)
class States:
    """Bytes that stay from step to step, by part; `host`: those that are offloaded to the CPU's memory or to NVMe."""

    device: dict[str, int] = field(default_factory=dict)
    host: dict[str, int] = field(default_factory=dict)


def states_of(layout: Layout) -> States:
    """What a rank of a layout holds between the steps."""
    parallel = layout.config.parallel
    parts = {
        "weights": _weights(layout),
        "master weights": _masters(layout),
        "optimizer state": _moments(layout),
        "averaged weights": _averages(layout),
        "gradients": _gradients(layout),
        "buffers": _buffers(layout),
        "staging": _staging(layout),
    }
    away: set[str] = set()
    elsewhere = layout.cuda or parallel.offload_device == "nvme"  # on a CPU, its memory is the device's
    if parallel.offload != "none" and elsewhere:
        away |= {"master weights", "optimizer state", "averaged weights", "gradients", "staging"}
    if parallel.offload == "all" and elsewhere:
        away |= {"weights"}
    device = {name: size for name, size in parts.items() if name not in away and size}
    host = {name: size for name, size in parts.items() if name in away and size}
    if "weights" in away:
        device["weights"] = persistent(layout) * layout.weight_width
    return States(device, host)


def bucket_of(layout: Layout) -> int:
    """Bytes of the buffers that gradients are gathered in to be reduced, at stages 1 to 3.

    DeepSpeed makes them of full size; on a CPU only the pages that are written are ever there.
    """
    parallel, stage = layout.config.parallel, layout.config.parallel.zero_stage
    filled = layout.zero("contiguous_gradients", fills_buckets(parallel, cuda=layout.cuda, ranks=layout.ranks))
    if stage == 0 or uses_bf16_optimizer(layout) or not filled:
        return 0
    size = layout.bucket
    size = size if layout.cuda else min(size, layout.elements)
    width = FP32 if stage == 1 else layout.weight_width
    overlapping = overlaps(cuda=layout.cuda, ranks=layout.ranks)
    return size * width * (2 if overlapping and stage < 3 else 1)  # one is filled while the other is reduced


def uses_bf16_optimizer(layout: Layout) -> bool:
    """Whether DeepSpeed takes its BF16_Optimizer, which keeps whole gradients in fp32, instead of ZeRO's."""
    parallel = layout.config.parallel
    return layout.bf16 and parallel.zero_stage == 1 and parallel.offload == "none"


def _weights(layout: Layout) -> int:
    """Those that are worked with; at stage 3 the partition, and what is too small to be cut."""
    parallel = layout.config.parallel
    if parallel.zero_stage < 3:
        return layout.elements * layout.weight_width
    second = layout.elements // parallel.hpz if parallel.hpz > 1 else 0
    return (layout.share + persistent(layout) + second) * layout.weight_width


def persistent(layout: Layout) -> int:
    """Elements that stage 3 keeps whole on every rank besides their partition; a rank alone has no copies."""
    if layout.ranks == 1:
        return 0
    most = layout.zero("stage3_param_persistence_threshold", PERSISTENT)
    return sum(size for shape in layout.held.values() if (size := math.prod(shape)) <= most)


def _masters(layout: Layout) -> int:
    """Weights in fp32 that the optimiser works on: ZeRO copies them in fp32, too."""
    return layout.share * FP32 if layout.config.parallel.zero_stage else 0


def _moments(layout: Layout) -> int:
    """What the optimiser keeps for each element, in fp32 (trainer/config/optimizers.py)."""
    elements = layout.share if layout.config.parallel.zero_stage else layout.elements
    state = OPTIMIZERS[layout.config.optimizer.name]
    held = sum(
        math.prod(shape) * len(state.of(is_hidden=is_hidden_matrix(name))) for name, shape in layout.held.items()
    )
    return round(FP32 * elements * held / layout.elements)


def _averages(layout: Layout) -> int:
    """The moving average of the weights, in fp32, of what a rank holds of them."""
    elements = layout.share if layout.config.parallel.zero_stage else layout.elements
    return FP32 * elements if layout.config.train.ema is not None else 0


def _gradients(layout: Layout) -> int:
    """Those that have storage of their own from step to step; others come and go in backward."""
    parallel = layout.config.parallel
    if uses_bf16_optimizer(layout):
        return layout.elements * FP32
    if parallel.zero_stage == 3:
        return layout.share * FP32 * (2 if parallel.offload != "none" else 1)
    return layout.share * FP32 if parallel.offload != "none" else 0


def _staging(layout: Layout) -> int:
    """Of offloaded state at stages 1 and 2: where new weights wait to be copied back, and a gradient's way there."""
    if layout.config.parallel.offload == "none" or layout.config.parallel.zero_stage == 3:
        return 0
    return layout.share * layout.weight_width + 2 * FP32 * max(map(math.prod, layout.held.values()))


def _buffers(layout: Layout) -> int:
    """Stage 3 keeps the bucket."""
    return bucket_of(layout) if layout.config.parallel.zero_stage == 3 else 0

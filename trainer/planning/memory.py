"""Memory of a rank at each of the moments at which a step may need the most; a test holds it against measured peaks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainer.planning.activations import Activations, activations_of
from trainer.planning.layout import BUCKET, REUSE_DISTANCE, Layout
from trainer.planning.states import FP32, States, bucket_of, persistent, states_of, uses_bf16_optimizer

MARGIN = 0.10  # largest error of a prediction; tests/planning/test_memory.py holds it
RUNTIME = 1_200_000_000  # bytes that CUDA's context, NCCL's buffers and cuBLAS's work spaces take on a GPU, about

Parts = dict[str, int]  # bytes by what they hold


@dataclass(frozen=True)
class Memory:
    """The most that a rank needs at once, and at which moment; bytes."""

    moment: str
    parts: Parts
    host: Parts  # off the device: offloaded state
    runtime: int  # of the device's libraries, which no allocation of ours shows

    @property
    def allocated(self) -> int:
        """Bytes of tensors on the device at that moment."""
        return sum(self.parts.values())

    @property
    def total(self) -> int:
        """Bytes of the device that the rank takes."""
        return self.allocated + self.runtime


def memory_of(layout: Layout) -> Memory:
    """The peak of a step of a layout."""
    states = states_of(layout)
    moment, parts = max(_moments(layout, states).items(), key=lambda item: sum(item[1].values()))
    return Memory(moment, parts, states.host, RUNTIME if layout.cuda else 0)


def _moments(layout: Layout, states: States) -> dict[str, Parts]:
    found = activations_of(layout)
    saved = layout.config.model.num_hidden_layers * found.saved
    whole = _growing(layout)  # of gradients, when backward has been through all
    before, late = (whole, 0) if layout.micro_steps > 1 else (0, _latest(layout))
    gathered, bucket = _gathered(layout), _bucket(layout)
    # stage 1 makes the bucket in the first backward of a step and keeps it; stage 2 makes it in each
    early = bucket if layout.config.parallel.zero_stage == 1 and layout.micro_steps > 1 else 0
    return {
        "loss": _sum(
            states,
            {"activations": saved + found.ends, "gradients": before, "logits": found.loss, "buffers": early},
            gathered,
        ),
        "backward of the last block": _sum(
            states, _in_block(saved, found), {"gradients": before, "buffers": bucket}, gathered
        ),
        "backward of the first block": _sum(
            states, _in_block(found.saved, found), {"gradients": whole - late, "buffers": bucket}, gathered
        ),
        "optimizer step": _sum(states, {"gradients": whole, "buffers": _stepping(layout)}),
    }


def _sum(states: States, *others: Parts) -> Parts:
    """Parts of the same name added up."""
    parts = dict(states.device)
    for name, size in (item for other in others for item in other.items()):
        if size:
            parts[name] = parts.get(name, 0) + size
    return parts


def _in_block(saved: int, found: Activations) -> Parts:
    """Activations while a block is in backward: what is `saved`, what was computed again, gradients in flight."""
    return {"activations": saved + found.recomputed + found.working}


def _growing(layout: Layout) -> int:
    """Bytes of gradients that backward makes and the step frees; those that stay are states."""
    stage = layout.config.parallel.zero_stage
    if uses_bf16_optimizer(layout):
        return layout.elements * layout.weight_width
    if stage == 3:
        return 0
    return (layout.share if stage == 2 else layout.elements) * FP32


def _latest(layout: Layout) -> int:
    """Bytes of the gradients that are still to come in the first block's backward."""
    if _growing(layout) != layout.elements * FP32:
        return 0
    latest = [name for name in layout.held if ".layers.0." in name or name == "model.embed_tokens.weight"]
    return sum(math.prod(layout.held[name]) for name in latest) * FP32


def _gathered(layout: Layout) -> Parts:
    """Stage 3's weights of other ranks, from forward to backward, and room for the largest gradient."""
    if layout.config.parallel.zero_stage < 3 or layout.ranks == 1:
        return {}
    cut = layout.elements - persistent(layout)
    whole = min(cut, layout.zero("stage3_max_reuse_distance", REUSE_DISTANCE))
    largest = max(map(math.prod, layout.held.values()))
    return {"gathered weights": whole * layout.weight_width, "buffers": largest * layout.weight_width}


def _bucket(layout: Layout) -> int:
    """Bytes of the bucket that gradients are reduced in, where it comes and goes; stage 3's is a state."""
    return bucket_of(layout) if layout.config.parallel.zero_stage in (1, 2) else 0


def _stepping(layout: Layout) -> int:
    """Buffers while gradients are reduced and the optimiser steps, beside the gradients."""
    stage = layout.config.parallel.zero_stage
    if stage == 0:
        return min(layout.elements, BUCKET) * FP32 if layout.ranks > 1 else 0
    if uses_bf16_optimizer(layout):
        flattened = layout.elements * FP32 if layout.elements <= BUCKET else 0  # a larger group is alone, and a view
        return flattened + layout.elements * layout.weight_width
    if layout.config.parallel.offload != "none":
        return bucket_of(layout)
    at_once = min(layout.elements, layout.zero("reduce_bucket_size", BUCKET)) * FP32
    return max(layout.share * FP32, (bucket_of(layout) or at_once) if stage == 1 else 0)

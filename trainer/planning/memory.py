"""Memory of a rank at each of the moments at which a run may need the most: while it is built, while its state is
loaded, and in a step. A test holds it against measured peaks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from trainer.config.training import BUCKET
from trainer.planning.activations import Activations, activations_of
from trainer.planning.layout import REUSE_DISTANCE, Layout
from trainer.planning.measured import RunMeasure
from trainer.planning.states import FP32, States, bucket_of, persistent, states_of, uses_bf16_optimizer

MARGIN = 0.10  # largest error of a prediction; tests/planning/test_memory.py holds it
RUNTIME = 1_200_000_000  # bytes that CUDA's context, NCCL's buffers and cuBLAS's work spaces take on a GPU, about

CONSTRUCTION, LOAD = "construction", "load"  # the moments before the first step
EMPTY_YET = ("optimizer state", "averaged weights")  # states that construction hasn't made

Parts = dict[str, int]  # bytes by what they hold


@dataclass(frozen=True)
class Memory:
    """The most that a rank needs at once, and at which moment; bytes."""

    moment: str
    parts: Parts
    host: Parts  # off the device: offloaded state
    runtime: int  # of the device's libraries, which no allocation of ours shows
    moments: Mapping[str, int]  # tensors on the device at every moment

    @property
    def allocated(self) -> int:
        """Bytes of tensors on the device at that moment."""
        return sum(self.parts.values())

    @property
    def total(self) -> int:
        """Bytes of the device that the rank takes."""
        return self.allocated + self.runtime

    def corrected(self, measured: RunMeasure) -> Memory:
        """The peak as a run of one's own says."""
        return replace(
            self,
            parts={name: round(size * measured.memory) for name, size in self.parts.items()},
            moments={name: round(size * measured.memory) for name, size in self.moments.items()},
            runtime=self.runtime if measured.libraries is None else measured.libraries,
        )


def memory_of(layout: Layout) -> Memory:
    """The peak of a run in a layout: the largest of construction, load and the moments of a step."""
    states = states_of(layout)
    moments = {
        CONSTRUCTION: _construction(layout, states),
        LOAD: _load(layout, states),
        **_moments(layout, states),
    }
    totals = {moment: sum(parts.values()) for moment, parts in moments.items()}
    peak = max(totals, key=lambda moment: totals[moment])
    return Memory(peak, moments[peak], states.host, RUNTIME if layout.cuda else 0, totals)


def _construction(layout: Layout, states: States) -> Parts:
    """While the model is built, and DeepSpeed makes its buffers of it: only this rank's slices ever take memory.

    Stages 1 and 2 copy the weights into one buffer (on a GPU that hasn't the room, in the host's memory), then fill the
    optimiser's gradients with zeros for a moment. Stage 3 has one parameter whole at a time.
    """
    stage = layout.config.parallel.zero_stage
    parts = {name: size for name, size in states.device.items() if name not in EMPTY_YET}
    if stage == 0:
        return parts
    if stage == 3:
        parts = _without_copies(layout, parts)
        return _added(parts, {"buffers": max(map(math.prod, layout.held.values())) * layout.weight_width})
    if "gradients" not in states.host:
        parts["gradients"] = max(parts.get("gradients", 0), layout.share * FP32)
    weights = parts["weights"]
    flattening = {"weights": weights, "buffers": weights}
    return flattening if not layout.cuda and 2 * weights > sum(parts.values()) else parts


def _load(layout: Layout, states: States) -> Parts:
    """While weights and moments are set from a checkpoint, a folder or the seed: what is read comes piece by piece.

    Pieces are in the host's memory, which on a CPU is the device's.
    """
    parallel = layout.config.parallel
    piece = max(map(math.prod, layout.held.values())) * FP32
    if parallel.zero_stage == 3:
        piece = math.ceil(piece / layout.ranks)
    return _added(_without_copies(layout, states.device), {} if layout.cuda else {"buffers": piece})


def _without_copies(layout: Layout, parts: Parts) -> Parts:
    """Without the small parameters that stage 3 keeps whole from its first step on."""
    if layout.config.parallel.zero_stage < 3:
        return dict(parts)
    return parts | {"weights": parts["weights"] - persistent(layout) * layout.weight_width}


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
    return _added(states.device, *others)


def _added(parts: Parts, *others: Parts) -> Parts:
    parts = dict(parts)
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
    at_once = min(layout.elements, layout.bucket) * FP32
    return max(layout.share * FP32, (bucket_of(layout) or at_once) if stage == 1 else 0)

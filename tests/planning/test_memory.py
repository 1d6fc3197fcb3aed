"""What is predicted is the peak of the allocations that a profiler tracks on real ranks, to within plan's margin."""

import itertools
import json
import os
from pathlib import Path

import pytest

from tests.ranks import pretrain, run_ranks, small_config
from trainer.planning.layout import layout_of
from trainer.planning.memory import MARGIN, memory_of

STEPS = 3
# Weights, state and activations of some 10 MB each; a bucket smaller than the model
SIZES = {
    "model__hidden_size": 256,
    "model__intermediate_size": 704,
    "model__num_hidden_layers": 4,
    "model__vocab_size": 2048,
    "data__sequence_length": 128,
    "train__micro_batch_size": 4,
}
BUCKET = {"zero_optimization": {"reduce_bucket_size": 1_000_000}}


def track_the_last_step(config):
    """Trains; rank 0 leaves the most bytes that were allocated at once during the last step in memory.json."""
    import torch

    from trainer.engine.loop import Trainer

    profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
    take_step = Trainer._take_step

    def tracked(self, step):
        if step == STEPS:
            with torch.profiler.record_function("last step"):
                loss = take_step(self, step)
            profile.stop()
            leave_peak(profile, Path(config.run.dir, f"memory-{os.environ['RANK']}.json"))
            return loss
        return take_step(self, step)

    Trainer._take_step = tracked
    profile.start()
    return pretrain(config)


def leave_peak(profile, path):
    """Adds up allocations since the start of the profile, in order; the most of it within "last step"."""
    events = sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    began = next(event.start_ns() for event in events if event.name() == "last step")
    live, peak = 0, 0
    for event in events:
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live) if event.start_ns() >= began else peak
    path.write_text(json.dumps(peak))


def assert_predicted(corpus, run_dir, *, ranks, **changes):
    config = small_config(corpus, run_dir, train__steps=STEPS, **{**SIZES, **changes})
    config.deepspeed = BUCKET
    assert run_ranks(track_the_last_step, config, ranks) == [0] * ranks
    peak = json.loads((run_dir / "memory-0.json").read_text())
    memory = memory_of(layout_of(config, ranks))
    assert memory.allocated == pytest.approx(peak, rel=MARGIN), memory


DEFAULT = [
    {"parallel__zero_stage": 1, "train__batch_size": 8},
    {"parallel__zero_stage": 3, "train__batch_size": 16, "train__precision": "bf16"},
    {"parallel__zero_stage": 2, "parallel__tensor": 2, "train__batch_size": 4},
]


@pytest.mark.parametrize("changes", DEFAULT, ids=str)
def test_peak_of_a_step(corpus, tmp_path, changes):
    assert_predicted(corpus, tmp_path / "run", ranks=2, **changes)


MATRIX = [
    (stage, precision, tensor, checkpointing)
    for stage, precision, tensor, checkpointing in itertools.product(
        range(4), ("fp32", "bf16"), (1, 2), ("none", "selective", "full")
    )
    if not (stage == 0 and precision == "bf16")
]


@pytest.mark.full
@pytest.mark.parametrize(("stage", "precision", "tensor", "checkpointing"), MATRIX)
def test_every_stage_precision_degree_and_checkpointing(corpus, tmp_path, stage, precision, tensor, checkpointing):
    assert_predicted(
        corpus,
        tmp_path / "run",
        ranks=2,
        parallel__zero_stage=stage,
        train__precision=precision,
        parallel__tensor=tensor,
        train__activation_checkpointing=checkpointing,
        train__batch_size=8,
    )

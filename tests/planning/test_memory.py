"""What is predicted is the most bytes of tensors alive at once on real ranks, to within plan's margin."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run_ranks import pretrain, read_metrics, run_ranks, small_config
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


def track_live_bytes():
    """A mode that counts the storages there are and those that operations make; `peak`: the most that lived at once."""
    import gc

    import torch
    from torch.multiprocessing.reductions import StorageWeakRef
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_map_only

    class LiveBytes(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.known, self.counted, self.peak = {}, 0, 0
            for tensor in gc.get_objects():
                if isinstance(tensor, torch.Tensor):
                    self.count(tensor)

        def __torch_dispatch__(self, operator, types, arguments=(), options=None):
            made = operator(*arguments, **(options or {}))
            tree_map_only(torch.Tensor, self.count, made)
            return made

        def count(self, tensor):
            if tensor.is_meta:
                return
            reference = StorageWeakRef(tensor.untyped_storage())
            known = self.known.get(reference.cdata)
            if known is None or known[0].expired():
                self.known[reference.cdata] = (reference, tensor.untyped_storage().nbytes())
                self.counted += self.known[reference.cdata][1] - (known[1] if known else 0)
            if self.counted > self.peak:
                self.known = {key: held for key, held in self.known.items() if not held[0].expired()}
                self.counted = sum(size for _, size in self.known.values())
                self.peak = max(self.peak, self.counted)

    return LiveBytes()


def track_the_last_step(config):
    """Trains; rank 0 leaves the most bytes of tensors that were alive at once during the last step in memory.json."""
    from trainer.engine.loop import Trainer

    take_step = Trainer._take_step

    def tracked(self, step):
        if step < STEPS or os.environ["RANK"] != "0":
            return take_step(self, step)
        with track_live_bytes() as mode:
            loss = take_step(self, step)
        Path(config.run.dir, "memory.json").write_text(json.dumps(mode.peak))
        return loss

    Trainer._take_step = tracked
    return pretrain(config)


def assert_predicted(corpus, run_dir, *, ranks, **changes):
    config = small_config(corpus, run_dir, train__steps=STEPS, **{**SIZES, **changes})
    config.deepspeed = BUCKET
    assert run_ranks(track_the_last_step, config, ranks) == [0] * ranks
    peak = json.loads((run_dir / "memory.json").read_text())
    memory = memory_of(layout_of(config, ranks))
    assert memory.allocated == pytest.approx(peak, rel=MARGIN), memory


DEFAULT = [
    {"parallel__zero_stage": 3, "train__batch_size": 8, "train__precision": "bf16"},
    {"parallel__zero_stage": 2, "parallel__tensor": 2, "train__batch_size": 4},
]


@pytest.mark.parametrize("changes", DEFAULT, ids=str)
def test_peak_of_a_step(corpus, tmp_path, changes):
    assert_predicted(corpus, tmp_path / "run", ranks=2, **changes)


def track_the_start(config):
    """Builds and fills the model; rank 0 leaves the most bytes that were alive at once in both in start.json."""
    from trainer.engine.assemble import assemble
    from trainer.engine.deepspeed import fragments
    from trainer.engine.initial_weights import seeded_weights
    from trainer.model.build import parameter_shapes
    from trainer.ranks.mesh import join

    mesh = join(tensor=config.parallel.tensor)
    with track_live_bytes() as construction:
        assembly = assemble(config, config.model, parameter_shapes(config.model), mesh)
    with track_live_bytes() as load:
        source = seeded_weights(config.model, config.seed)
        fragments.restore(assembly.engine, assembly.partition, source, steps=0)
    if mesh.is_main:
        Path(config.run.dir).mkdir()
        Path(config.run.dir, "start.json").write_text(json.dumps([construction.peak, load.peak]))
    return 0


STARTS = [
    *itertools.product((1, 2), (1,), range(4), ("fp32", "bf16"), ("adamw",), ("none",)),
    *itertools.product((2, 4), (2,), range(4), ("fp32", "bf16"), ("adamw",), ("none",)),
    *itertools.product((2,), (1,), (0, 1, 3), ("fp32",), ("muon",), ("none",)),
    *((2, 1, stage, "fp32", "adamw", offload) for stage, offload in ((1, "optimizer"), (2, "optimizer"), (3, "all"))),
]
ALWAYS = [(2, 2, 2, "fp32", "adamw", "none"), (2, 1, 3, "bf16", "adamw", "none")]


@pytest.mark.parametrize(
    ("ranks", "tensor", "stage", "precision", "optimizer", "offload"),
    [pytest.param(*start, marks=() if start in ALWAYS else pytest.mark.full) for start in STARTS],
)
def test_peaks_of_construction_and_load(corpus, tmp_path, ranks, tensor, stage, precision, optimizer, offload):
    layout = {"parallel__tensor": tensor, "parallel__zero_stage": stage, "parallel__offload": offload}
    config = small_config(corpus, tmp_path / "run", train__precision=precision, train__batch_size=8, **SIZES, **layout)
    config.optimizer.name, config.deepspeed, config.model.num_key_value_heads = optimizer, BUCKET, 4
    assert run_ranks(track_the_start, config, ranks) == [0] * ranks
    peaks = json.loads((tmp_path / "run" / "start.json").read_text())
    moments = memory_of(layout_of(config, ranks)).moments
    assert [moments["construction"], moments["load"]] == pytest.approx(peaks, rel=MARGIN)


MATRIX = [
    *itertools.product(range(4), ("fp32", "bf16"), (1, 2), ("none", "selective", "full")),
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


@pytest.mark.full
@pytest.mark.parametrize(
    "changes",
    [
        {"data__mask_documents": True},
        {"model__qk_norm": True},
        {"optimizer__name": "muon", "parallel__zero_stage": 3},
        {"model__loss_chunk": 128, "model__vocab_size": 8192},
        {"model__loss_chunk": 128, "model__vocab_size": 8192, "train__precision": "bf16"},
    ],
    ids=str,
)
def test_what_else_decides(corpus, tmp_path, changes):
    assert_predicted(corpus, tmp_path / "run", ranks=1, train__batch_size=8, **changes)


@pytest.mark.skipif(not os.path.exists("/dev/nvidia0"), reason="needs a GPU")
@pytest.mark.parametrize("overrides", [["train.compile=true"], ["train.activation_checkpointing=full"]], ids=str)
def test_peak_on_a_gpu(corpus, tmp_path, overrides):
    """350 million parameters in bf16; what torch.cuda.max_memory_allocated() says, as the run logs it."""
    from launch.compose import compose

    arguments = [
        *("model=llama_350m", "model.vocab_size=32768", f"data.path={corpus}", f"run.dir={tmp_path / 'run'}"),
        *("data.sequence_length=1024", "train.steps=3", "train.batch_size=16", "train.micro_batch_size=8"),
        *("train.precision=bf16", "parallel.zero_stage=1", "evaluate.every=0", "evaluate.prompt=null"),
        *(
            "track.every=1",
            "track.wandb.mode=disabled",
            "checkpoint.asynchronous=false",
            "launch.processes=1",
            *overrides,
        ),
    ]
    subprocess.run(
        [sys.executable, "-m", "launch", "pretrain", *arguments], check=True, timeout=500, stdin=subprocess.DEVNULL
    )
    peak = read_metrics(tmp_path / "run")[1]["perf/memory_bytes"]
    memory = memory_of(layout_of(compose("pretrain", arguments), 1, cuda=True))
    assert memory.allocated == pytest.approx(peak, rel=MARGIN), memory

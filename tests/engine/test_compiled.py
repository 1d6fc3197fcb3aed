"""Compiled blocks at every stage: one graph for all of them, none broken, and the losses of eager ones."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.run_ranks import pretrain, read_metrics, run_ranks, small_config
from trainer.config.data import LengthStage

MODEL = {"model__num_hidden_layers": 2, "model__num_key_value_heads": 4, "train__steps": 3}
CLEAN = {"graphs": 2, "breaks": {}, "recompiled": []}  # of a block, and of the loss


def counting_graphs(config):
    """The verb, whose graphs go through AOTAutograd alone; what torch's compiler counted is left beside the run."""
    from torch._dynamo.utils import counters

    compile_as_asked, recompiled = torch.compile, []
    torch.compile = lambda function, **options: compile_as_asked(function, backend="aot_eager", **options)
    torch._logging.set_logs(recompiles=True)
    log = torch._logging.getArtifactLogger("torch._dynamo.guards", "recompiles")
    log.addFilter(lambda record: recompiled.append(record.getMessage()) or False)
    code = pretrain(config)
    found = {
        "graphs": counters["stats"]["unique_graphs"],
        "breaks": dict(counters["graph_break"]),
        "recompiled": recompiled,
    }
    Path(f"{config.run.dir}-{os.environ['RANK']}.json").write_text(json.dumps(found))
    return code


def losses(run_dir):
    return [(row["train/loss"], row["train/grad_norm"]) for row in read_metrics(run_dir)]


STARTED = """
import os, sys
os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1")
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
from pathlib import Path
from tests.engine.test_compiled import MODEL
from tests.run_ranks import pretrain, small_config
config = small_config(Path(sys.argv[1]), Path(sys.argv[2]), parallel__zero_stage=3, **MODEL)
code = pretrain(config)
sys.stdout.flush()
os._exit(code or ("torch._dynamo" in sys.modules))
"""


@pytest.fixture(scope="module")
def eager(corpus, tmp_path_factory):
    """Losses of a run at stage 3 in a process of its own, and how that ended: 1 if torch's compiler came in."""
    run_dir = tmp_path_factory.mktemp("eager") / "run"
    done = subprocess.run(
        [sys.executable, "-c", STARTED, corpus, run_dir],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    return losses(run_dir), done


LAYOUTS = [
    pytest.param(1, {"parallel__zero_stage": 0}, id="0", marks=pytest.mark.full),
    pytest.param(2, {"parallel__zero_stage": 1}, id="1", marks=pytest.mark.full),
    pytest.param(2, {"parallel__zero_stage": 2}, id="2", marks=pytest.mark.full),
    pytest.param(2, {"parallel__zero_stage": 3}, id="3", marks=pytest.mark.full),
    pytest.param(
        2,
        {"parallel__zero_stage": 3, "train__activation_checkpointing": "full"},
        id="3-recomputed",
        marks=pytest.mark.full,
    ),
    pytest.param(
        2,
        {"parallel__zero_stage": 3, "parallel__tensor": 2, "train__activation_checkpointing": "full"},
        id="3-tensor-recomputed",
    ),
    pytest.param(4, {"parallel__zero_stage": 3, "parallel__tensor": 2}, id="3-tensor", marks=pytest.mark.full),
    pytest.param(2, {"parallel__zero_stage": 2, "parallel__tensor": 2}, id="2-tensor", marks=pytest.mark.full),
    pytest.param(4, {"parallel__zero_stage": 3, "parallel__hpz": 2}, id="3-hpz", marks=pytest.mark.full),
    pytest.param(2, {"parallel__zero_stage": 3, "parallel__offload": "all"}, id="3-offload", marks=pytest.mark.full),
]


@pytest.mark.parametrize(("world_size", "layout"), LAYOUTS)
def test_blocks_are_one_graph_without_a_break_and_train_as_eager_ones(corpus, tmp_path, eager, world_size, layout):
    config = small_config(corpus, tmp_path / "run", train__compile=True, **MODEL, **layout)
    assert run_ranks(counting_graphs, config, world_size) == [0] * world_size
    assert losses(tmp_path / "run") == [pytest.approx(pair, rel=2e-5) for pair in eager[0]]
    found = [json.loads((tmp_path / f"run-{rank}.json").read_text()) for rank in range(world_size)]
    assert found == [CLEAN] * world_size


def counting_fetches(config):
    """The verb on one rank; how often stage 3 has stopped to fetch weights is left beside the run."""
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator, iter_params
    from deepspeed.utils import z3_leaf_module

    fetched, fetch = [], PartitionedParameterCoordinator.fetch_sub_module

    def noted(self, module, forward):
        if any(True for _ in iter_params(module, recurse=z3_leaf_module(module))):
            fetched.append(module)
        return fetch(self, module, forward)

    PartitionedParameterCoordinator.fetch_sub_module = noted
    code = counting_graphs(config)
    Path(f"{config.run.dir}.json").write_text(json.dumps(len(fetched)))
    return code


@pytest.mark.full
def test_a_compiled_block_of_stage_3_is_fetched_at_once(corpus, tmp_path):
    """Alone on a GPU, DeepSpeed waits for the device whenever it does so."""
    counted = {}
    for compiled, layers in itertools.product((False, True), (2, 3)):
        changes = MODEL | {"model__num_hidden_layers": layers, "train__steps": 1, "train__micro_batch_size": 8}
        run_dir = tmp_path / f"{compiled}-{layers}"
        config = small_config(corpus, run_dir, parallel__zero_stage=3, train__compile=compiled, **changes)
        assert run_ranks(counting_fetches, config, 1) == [0]
        counted[compiled, layers] = json.loads(Path(f"{run_dir}.json").read_text())
    eager, whole = (counted[compiled, 3] - counted[compiled, 2] for compiled in (False, True))  # of a block
    assert (eager, whole) == (18, 2)  # seven matrices and two norms, or all of them, forward and backward


def test_stage_3_does_without_torch_s_compiler_unless_it_compiles(eager):
    """Its import takes longer than the rest of a start."""
    _, done = eager
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.full
def test_each_length_of_a_ramp_is_compiled_once(corpus, tmp_path):
    """A block, for 8 tokens and for 32, and the loss of as many tokens: not again at each step."""
    ramp = {"short": LengthStage(until_tokens=8 * 32 * 3, sequence_length=8)}
    changes = {"train__compile": True, "data__length_ramp": ramp, "train__steps": 7}
    config = small_config(corpus, tmp_path / "run", **MODEL | changes)
    assert run_ranks(counting_graphs, config, 1) == [0]
    found = json.loads((tmp_path / "run-0.json").read_text())
    assert (found["graphs"], found["breaks"], len(found["recompiled"])) == (3, {}, 1)

"""A checkpoint of any shape of run is loaded at any other, to the bit, and trained on with."""

import itertools
import json
import os
import random
import threading
import time
from pathlib import Path

import pytest

from tests.checkpoint.test_reshape import TOLERANCE, move
from tests.engine.reference import assert_same_course, train_plainly
from tests.hugging_face import save_other
from tests.run_ranks import pretrain, run_ranks, small_config
from tests.states import read_state
from trainer.config import Model

# (world size, stage, tensor degree)
SHAPES = [(w, z, t) for w, z, t in itertools.product((1, 2, 4), range(4), (1, 2)) if w % t == 0]
# What no number of ranks divides: stage 3 pads it, and tensor-parallel peers get slices of different sizes.
ODD = {
    "model__hidden_size": 45,
    "model__num_attention_heads": 2,
    "model__num_key_value_heads": 2,
    "model__head_dim": 6,
    "model__intermediate_size": 77,
    "model__vocab_size": 303,
}
EXPERTS = {"model__num_experts": 4, "model__moe_intermediate_size": 40}


def save_again(config):
    """Goes on from the newest checkpoint, and instead of training saves what it loaded as the next step's."""
    from trainer.engine import loop

    def run(trainer, stops):
        trainer.progress.step += 1
        trainer.save(True)
        return "step"

    loop.Trainer.run = run
    return pretrain(config)


def assert_handed_on(corpus, run_dir, shapes, *, steps=3, **changes):
    """Trains a little on one process; every shape loads and saves that, and nothing of it changes."""
    config = small_config(corpus, run_dir, train__steps=100, train__stop_at=steps, checkpoint__keep=2, **changes)
    config.parallel.zero_stage = 1 if config.train.precision == "bf16" else 0
    assert run_ranks(pretrain, config, 1) == [85]
    known = read_state(run_dir)
    assert all(tensor.abs().max() > 0 for tensor in known.values())
    config.train.stop_at = None
    for world_size, stage, tensor, *offload in shapes:
        config.parallel.zero_stage, config.parallel.tensor = stage, tensor
        config.parallel.offload = offload[0] if offload else "none"
        assert run_ranks(save_again, config, world_size) == [85] * world_size
        steps += 1
        state = read_state(run_dir, steps)
        assert state.keys() == known.keys()
        different = [key for key, tensor in state.items() if not tensor.equal(known[key])]
        assert not different, (world_size, stage, tensor)


def shuffled(shapes):
    return random.Random(0).sample(shapes, len(shapes))


def test_some_shapes_hand_on_what_they_loaded(corpus, tmp_path):
    shapes = [(4, 3, 2), (2, 1, 2), (4, 2, 1), (2, 0, 2)]
    assert_handed_on(corpus, tmp_path / "run", shapes, checkpoint__writers=3, **ODD)


@pytest.mark.parametrize(
    ("world_size", "stage"),
    [
        pytest.param(w, stage, marks=() if (w, stage) == (4, 1) else pytest.mark.full)
        for w in (2, 4)
        for stage in range(4)
    ],
)
def test_every_element_is_saved_once_where_peers_partitions_end_apart(corpus, tmp_path, world_size, stage):
    """Slices of the head differ in size, so peers' flat partitions end at different elements of the whole embedding."""
    save_other(tmp_path / "model", "llama", vocab_size=1001, num_hidden_layers=1)
    config = small_config(corpus, tmp_path / "run", train__steps=2)
    config.model = Model(path=str(tmp_path / "model"))
    config.parallel.zero_stage, config.parallel.tensor = stage, 2
    assert run_ranks(pretrain, config, world_size) == [0] * world_size
    config.parallel.zero_stage, config.parallel.tensor, config.run.dir = 0, 1, str(tmp_path / "alone")
    assert run_ranks(pretrain, config, 1) == [0]
    alone, state = read_state(tmp_path / "alone"), read_state(tmp_path / "run")  # which refuses gaps
    assert state.keys() == alone.keys()
    apart = [key for key, whole in alone.items() if (state[key] - whole).abs().max() > 1e-3 * whole.abs().max()]
    assert not apart


@pytest.mark.full
@pytest.mark.parametrize("model", [ODD, EXPERTS], ids=["odd", "experts"])
def test_every_shape_hands_on_what_it_loaded(corpus, tmp_path, model):
    assert_handed_on(corpus, tmp_path / "run", shuffled(SHAPES), **model)


@pytest.mark.full
def test_every_shape_in_bf16_hands_on_what_it_loaded(corpus, tmp_path):
    assert_handed_on(corpus, tmp_path / "run", shuffled(SHAPES), train__precision="bf16", **ODD)


@pytest.mark.full
def test_every_shape_with_muon_hands_on_what_it_loaded(corpus, tmp_path):
    shapes = [shape for shape in SHAPES if shape[2] == 1]
    assert_handed_on(corpus, tmp_path / "run", shuffled(shapes), optimizer__name="muon")


@pytest.mark.full
def test_every_offloaded_shape_hands_on_what_it_loaded(corpus, tmp_path):
    offloaded = [(*shape, "optimizer") for shape in SHAPES if shape[1] > 0]
    offloaded += [(*shape, "all") for shape in SHAPES if shape[1] == 3]
    assert_handed_on(corpus, tmp_path / "run", shuffled(offloaded), **ODD)


PAIRS = random.Random(4).sample([pair for pair in itertools.product(SHAPES, SHAPES) if pair[0] != pair[1]], 20)


@pytest.fixture(scope="module")
def unbroken(corpus, tmp_path_factory):
    return train_plainly(small_config(corpus, tmp_path_factory.mktemp("plain"), train__steps=12))


@pytest.mark.full
@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_pairs_of_shapes_train_on(corpus, tmp_path, unbroken, before, after):
    assert TOLERANCE == 1e-5
    move(corpus, tmp_path / "run", [before, after])
    assert_same_course(tmp_path / "run", unbroken, TOLERANCE)


def load_and_weigh(config):
    """Loads the newest checkpoint; leaves in load-RANK.json what memory of its own that took at most, in bytes."""
    from trainer.engine.deepspeed import fragments

    restore = fragments.restore

    def weighed(*given, **options):
        before, peak, done = anonymous_bytes(), [0], threading.Event()

        def watch():
            while not done.is_set():
                peak[0] = max(peak[0], anonymous_bytes())
                time.sleep(0.002)

        watcher = threading.Thread(target=watch)
        watcher.start()
        restore(*given, **options)
        done.set()
        watcher.join()
        Path(config.run.dir, f"load-{os.environ['RANK']}.json").write_text(json.dumps(peak[0] - before))

    fragments.restore = weighed
    return save_again(config)


def anonymous_bytes():
    """Memory of this process that is no file's: safetensors files are mapped."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


@pytest.mark.full
@pytest.mark.parametrize(("world_size", "stage", "tensor"), [(2, 3, 1), (2, 1, 2)])
def test_memory_of_a_load_is_a_rank_s_share_and_a_parameter(corpus, tmp_path, world_size, stage, tensor):
    """205 million parameters: 2.5 GB of state."""
    config = small_config(corpus, tmp_path / "run", train__steps=100, train__stop_at=1, train__batch_size=2)
    config.train.micro_batch_size, config.checkpoint.keep = 1, 1
    config.model.hidden_size, config.model.intermediate_size, config.model.num_hidden_layers = 1024, 8192, 7
    config.model.num_attention_heads, config.model.num_key_value_heads = 8, 8
    assert run_ranks(pretrain, config, 1) == [85]
    config.train.stop_at, config.parallel.zero_stage, config.parallel.tensor = None, stage, tensor
    assert run_ranks(load_and_weigh, config, world_size) == [85] * world_size
    state = read_state(tmp_path / "run")
    moments = sum(tensor.nbytes for (_, kind), tensor in state.items() if kind != "fp32")
    largest = max(tensor.nbytes for tensor in state.values())
    for rank in range(world_size):
        grown = json.loads((tmp_path / "run" / f"load-{rank}.json").read_text())
        assert grown < moments / world_size * 1.02 + 2.5 * largest  # weights have their place before

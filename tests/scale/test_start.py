"""What one rank does to begin doesn't grow with the number of all ranks: files, groups, collectives, elements."""

import itertools
import json
import math
from pathlib import Path

import pytest

from tests.corpus import make_dataset
from tests.run_ranks import pretrain, run_ranks, small_config
from tests.scale.large_run import LargeRun
from tests.scale.one_of_many import start
from trainer.checkpoint.folders import folder_of
from trainer.config.run import writers_of
from trainer.model.build import parameter_shapes
from trainer.model.partition import Partition

MOST_OPENED = 50
"""Files and folders that a rank may open on shared storage to begin, or to go on (docs/SCALE.md)."""
MOST_DRAWN_AT_A_RESUME = 0
MOST_EXCHANGED = 1000
"""Elements that any collective may pass on, besides the gathering of weights that were read. Paths are the longest."""
MOST_GROUPS = 5
MOST_COLLECTIVES = 60
MOST_STORE_CALLS = 10
MOST_STORE_BYTES = 2_000
SIZES = (64, 512, 4096)
MODEL = {
    "model__hidden_size": 64,
    "model__num_attention_heads": 8,
    "model__num_key_value_heads": 8,
    "model__vocab_size": 304,
}


def save_at_once(config):
    """Saves as the first step's what a new run begins with."""
    from trainer.engine import loop

    def run(trainer, stops):
        trainer.progress.step, trainer.progress.position = 1, trainer.config.train.batch_size
        trainer.save(True)
        return "step"

    loop.Trainer.run = run
    return pretrain(config)


def configure(data, run_dir, **changes):
    return small_config(data, run_dir, train__batch_size=max(SIZES), **MODEL | changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A dataset in which thousands of ranks don't go round and round."""
    folder = tmp_path_factory.mktemp("data")
    make_dataset(folder / "train", documents=1500, shards=8)
    return folder


@pytest.fixture(scope="module")
def state(data, tmp_path_factory):
    """What state.json says after a step of a run of such a batch size."""
    config = configure(data, tmp_path_factory.mktemp("one") / "run")
    assert run_ranks(save_at_once, config, 1) == [85]
    return json.loads((folder_of(Path(config.run.dir), 1) / "state.json").read_text())


def layouts(*always):
    """Every stage and tensor degree; those not in `always` with --full only."""
    every = itertools.product(range(4), (1, 4, 8))
    return [pytest.param(*layout, marks=() if layout in always else pytest.mark.full) for layout in every]


def play(config, ranks, notes):
    """The counts of rank 0 and of one far from it, in a run of so many."""
    notes.mkdir()
    found = []
    for rank in (0, ranks // 3):
        assert run_ranks(start, (config, rank, ranks, str(notes)), 1) == [85]
        found.append(json.loads((notes / f"counts-{rank}.json").read_text()))
    print(ranks, {key: value for key, value in found[1].items() if key != "files"})
    return found


def slices(config, tensor):
    """Elements of the slices that the peers hold: the first, and the one that is played."""
    shapes = parameter_shapes(config.model)
    for rank in (0, tensor // 3):
        partition = Partition(shapes, rank, tensor, kv_heads=8)
        yield [math.prod(partition.held_shape(name)) for name in shapes]


def assert_within_budgets(counts, held, *, stage, data_ranks):
    largest_part = max(held)
    assert counts["opened"] <= MOST_OPENED, "\n".join(counts["files"])
    assert counts["groups"] <= MOST_GROUPS
    assert sum(counts["collectives"].values()) <= MOST_COLLECTIVES
    assert sum(counts["store"].values()) <= MOST_STORE_CALLS
    assert counts["store_bytes"] <= MOST_STORE_BYTES
    assert counts["built"] == sum(held)
    if stage == 3:
        assert counts["held"] == sum(-(-part // data_ranks) for part in held)
    gathered = sum(held) + largest_part if stage in (1, 2) else 0  # weights of all, as after each step
    assert counts["largest"] <= max(MOST_EXCHANGED, gathered)


def assert_alike(by_size):
    """What doesn't grow with the ranks is the same at every size."""
    for name in ("groups", "collectives", "store", "built"):
        assert len({json.dumps(counts[name], sort_keys=True) for counts in by_size}) == 1, name


@pytest.mark.parametrize(("stage", "tensor"), layouts((1, 1), (2, 4), (3, 8)))
def test_a_resume_does_nothing_that_grows_with_the_ranks(data, tmp_path, state, request, stage, tensor):
    found = []
    for ranks in sizes(request):
        config = configure(data, tmp_path / f"run-{ranks}", parallel__zero_stage=stage, parallel__tensor=tensor)
        config.train.micro_batch_size = max(SIZES) // (ranks // tensor)
        shapes = parameter_shapes(config.model)
        saved = LargeRun(ranks, tensor, shapes, writers=writers_of(config.checkpoint, stage), flat=stage in (1, 2))
        needed = read_at_the_same_shape(ranks, tensor) if stage else range(ranks)
        saved.write(folder_of(Path(config.run.dir), 1), needed, state)
        found.append(play(config, ranks, tmp_path / f"notes-{ranks}"))
        for counts, held in zip(found[-1], slices(config, tensor), strict=True):
            assert counts["drawn"] <= MOST_DRAWN_AT_A_RESUME
            assert_within_budgets(counts, held, stage=stage, data_ranks=ranks // tensor)
    for by_size in zip(*found, strict=True):
        assert_alike(by_size)


@pytest.mark.parametrize(("stage", "tensor"), layouts((3, 1)))
def test_a_new_run_does_nothing_that_grows_with_the_ranks(data, tmp_path, request, stage, tensor):
    found = []
    for ranks in sizes(request):
        config = configure(data, tmp_path / f"run-{ranks}", parallel__zero_stage=stage, parallel__tensor=tensor)
        config.train.micro_batch_size = max(SIZES) // (ranks // tensor)
        found.append(play(config, ranks, tmp_path / f"notes-{ranks}"))
        for counts, held in zip(found[-1], slices(config, tensor), strict=True):
            assert counts["drawn"] > 0
            assert_within_budgets(counts, held, stage=stage, data_ranks=ranks // tensor)
    for by_size in zip(*found, strict=True):
        assert_alike(by_size)


@pytest.mark.full
@pytest.mark.parametrize("key", ["hpz", "sequence"])
def test_neighbours_are_one_group_more(data, tmp_path, key):
    config = configure(data, tmp_path / "run", parallel__zero_stage=3, train__micro_batch_size=1)
    setattr(config.parallel, key, 8)
    config.train.batch_size = max(SIZES)
    for counts in play(config, max(SIZES), tmp_path / "notes"):
        assert counts["groups"] == 3  # with gloo's of all ranks, and DeepSpeed's copy of the world


def read_at_the_same_shape(ranks, tensor):
    """Whose parts are read by the ranks that `play` plays: their own and those of their peers. No others are there."""
    return [
        rank for each in (0, ranks // 3) for rank in range(each // tensor * tensor, each // tensor * tensor + tensor)
    ]


def sizes(request):
    return SIZES if request.config.getoption("--full") else (SIZES[0], SIZES[-1])

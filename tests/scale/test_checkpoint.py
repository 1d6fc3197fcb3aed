"""A rank plans what it loads of a checkpoint of 70 billion parameters: little is opened, read, made and held for it."""

import tracemalloc

import numpy as np
import pytest
import torch

from tests.scale.large_run import KINDS, LLAMA_70B, LargeRun
from tests.scale.opened import files_opened
from trainer.checkpoint.complete import read_complete
from trainer.checkpoint.find import find_problem
from trainer.checkpoint.index import INDEX
from trainer.checkpoint.merge import merge_indexes
from trainer.checkpoint.reader import CheckpointReader

RANKS = 4096
MOST_INDEX_BYTES = 1_000_000
MOST_BYTES_HELD = 50_000_000
MOST_RUNS_PER_REGION = 8
"""Of CPU, to open a checkpoint and plan all that a rank loads; 0.05 to 0.15 on an idle core."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of 4,096 ranks without their tensors but for rank 1,234's (zeros), by tensor degree."""
    folder = tmp_path_factory.mktemp("saved")
    written = {}

    def folder_of(tensor):
        if tensor not in written:
            run = LargeRun(RANKS, tensor)
            written[tensor] = run.write(folder / f"tensor-{tensor}" / "step-00000001", with_data=[1234])
        return written[tensor]

    return folder_of


def plan(reader, run, rank):
    """Numbers of runs, pieces and parts that a rank of `run` would read, over all that it holds."""
    runs = pieces = elements = 0
    parts = np.zeros(RANKS, dtype=bool)
    for name, region in run.regions_of(rank).items():
        for kind in KINDS:
            found = list(reader.index.find(name, kind, region))
            assert len(found) <= MOST_RUNS_PER_REGION + 2
            runs += len(found)
            pieces += sum(each.count for each in found)
            elements += region.count
            for each in found:
                parts[each.part : each.part + each.count * max(1, each.step) : max(1, each.step)] = True
    return runs, pieces, int(parts.sum()), elements


# (tensor degree that saved, ranks, tensor degree that load, most parts that a rank may read)
SHAPES = [(1, 4096, 1, 1), (1, 2048, 1, 2), (1, 512, 1, 8), (1, 8, 1, 512), (1, 4096, 8, 9), (1, 8, 8, 4096)]
SHAPES += [(8, 4096, 8, 8), (8, 1024, 8, 32), (8, 8, 8, 4096), (8, 512, 1, 16)]


@pytest.mark.parametrize(("tensor", "ranks", "degree", "most_parts"), SHAPES)
def test_a_rank_plans_what_it_needs(saved, tensor, ranks, degree, most_parts):
    folder = saved(tensor)
    assert (folder / INDEX).stat().st_size < MOST_INDEX_BYTES
    run = LargeRun(ranks, degree)
    with files_opened(folder) as opened:
        reader = CheckpointReader(folder)
        runs, pieces, parts, elements = plan(reader, run, ranks // 3)
    assert sorted(path.rpartition("/")[2] for path in opened) == ["COMPLETE", "state.json"]  # the index is mapped
    assert parts <= most_parts
    assert runs <= MOST_RUNS_PER_REGION * len(LLAMA_70B) * len(KINDS)
    assert pieces >= parts
    assert elements * ranks >= run.parameters * len(KINDS)


@pytest.mark.parametrize(("tensor", "ranks", "degree"), [(1, 4096, 1), (8, 1024, 8)])
def test_a_plan_holds_little(saved, tensor, ranks, degree):
    """As Python and numpy asked for; the index itself is the file system's."""
    folder, run = saved(tensor), LargeRun(ranks, degree)
    tracemalloc.start()
    plan(CheckpointReader(folder), run, ranks // 3)
    _, held = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < MOST_BYTES_HELD


def test_a_rank_at_the_same_shape_reads_its_own_part_only(saved):
    run, reader = LargeRun(RANKS), CheckpointReader(saved(1))
    for name, region in run.regions_of(1234).items():
        assert not torch.count_nonzero(reader.read(name, "exp_avg", region))
    assert set(reader._files) == {"rank-01234.safetensors"}


def test_a_rank_looks_at_its_share_of_the_files(saved):
    folder = saved(1)
    assert find_problem(folder, part=1234, parts=RANKS, hashes=False) is None  # of all tensors only its own are there
    assert find_problem(folder, part=1235, parts=RANKS, hashes=False) == "rank-01235.safetensors is missing"
    assert len(read_complete(folder)) == RANKS + 2


def test_every_element_is_once_in_the_index(saved):
    reader = CheckpointReader(saved(8))
    sizes = reader.index.part_sizes
    run = LargeRun(RANKS, 8)
    assert (sizes == run.elements_of(range(RANKS))).all()
    assert int(sizes.sum()) == 3 * run.parameters


@pytest.mark.parametrize("tensor", [1, 8])
def test_the_index_is_what_rank_0_merges_of_all(tensor):
    run = LargeRun(128, tensor)
    assert run.index() == merge_indexes(map(run.own_index, range(run.ranks)), run.files)

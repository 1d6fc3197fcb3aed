"""What ranks need of each other to begin: descriptors, connections and readers that don't grow with all of them."""

import itertools
import json
import os
import time
from pathlib import Path

import pytest
import torch

from tests.run_ranks import run_ranks
from trainer.ranks.watchdog import READERS, is_reader

MOST_DESCRIPTORS = 40


def join_and_count(folder):
    """Joins; writes this rank's descriptors, and its seconds for the groups and for a first verdict of all."""
    from trainer.ranks.mesh import join

    before, began = len(os.listdir("/proc/self/fd")), time.perf_counter()
    mesh = join()
    mesh.barrier()  # some begin later
    joined = time.perf_counter()
    assert mesh.first(None) is None
    last = mesh.world_size - 1
    assert mesh.first("this" if mesh.rank == last else None) == "this"
    assert mesh.first(f"that {mesh.rank}" if mesh.rank in (1, last) else None) == "that 1"
    assert mesh.main_finds(lambda: "found") == "found"
    total = torch.ones((), dtype=torch.float64)
    torch.distributed.all_reduce(total)
    assert total.item() == mesh.world_size
    counts = {
        "descriptors": len(os.listdir("/proc/self/fd")) - before,
        "join_s": joined - began,
        "agree_s": time.perf_counter() - joined,
    }
    (Path(folder) / f"{mesh.rank}.json").write_text(json.dumps(counts))
    mesh.leave()
    return 0


@pytest.mark.parametrize(
    "ranks", [4, pytest.param(32, marks=pytest.mark.full), pytest.param(64, marks=pytest.mark.full)]
)
def test_connections_of_a_rank_don_t_grow_with_the_ranks(tmp_path, ranks):
    assert run_ranks(join_and_count, str(tmp_path), ranks) == [0] * ranks
    counts = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(ranks)]
    print({key: max(each[key] for each in counts) for key in counts[0]})
    # rank 0 has the store, to which each rank holds a connection
    assert max(each["descriptors"] for each in counts[1:]) <= MOST_DESCRIPTORS
    assert counts[0]["descriptors"] <= MOST_DESCRIPTORS + 2 * ranks


@pytest.mark.parametrize("ranks", [1, 2, 15, 16, 17, 64, 100, 4096, 4097])
def test_few_ranks_look_at_all_heartbeats(ranks):
    readers = [rank for rank in range(ranks) if is_reader(rank, ranks)]
    assert min(ranks, READERS // 2) <= len(readers) <= READERS
    assert readers[0] == 0
    gaps = {after - before for before, after in itertools.pairwise(readers)}
    assert len(gaps) <= 1

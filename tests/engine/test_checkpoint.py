"""Checkpoint files: whole or not there, readable in any ranges."""

import json
from itertools import pairwise

import pytest
import torch

from trainer.engine.checkpoint import (
    CheckpointReader,
    find_checkpoint,
    find_problem,
    folder_of,
    list_steps,
    read_weights,
    retain,
    save,
)
from trainer.engine.fragments import Fragment
from trainer.engine.region import Region
from trainer.errors import InputError


class Alone:
    """A mesh of one rank."""

    rank, world_size, is_main = 0, 1, True

    def from_main(self, value):
        return value

    def barrier(self):
        pass

    def first(self, problem):
        return problem


WEIGHT = torch.arange(63, dtype=torch.float32)


def region(start, stop):
    return Region((9, 7), None, start, stop)


def pieces(*cuts):
    """A parameter of odd size in fragments at these cuts, with one moment."""
    edges = [0, *cuts, 63]
    return [
        Fragment("odd", region(start, stop), {"fp32": WEIGHT[start:stop], "exp_avg": -WEIGHT[start:stop]})
        for start, stop in pairwise(edges)
    ]


def write(run_dir, step, *cuts):
    return save(run_dir, Alone(), pieces(*cuts), {"step": step})


def test_any_range_is_read_from_any_fragments(tmp_path):
    reader = CheckpointReader(write(tmp_path, 1, 5, 16, 48))
    for start, stop in ((0, 63), (4, 6), (16, 48), (62, 63), (10, 50), (7, 7)):
        assert torch.equal(reader.read("odd", "fp32", region(start, stop)), WEIGHT[start:stop])
        assert torch.equal(reader.read("odd", "exp_avg", region(start, stop)), -WEIGHT[start:stop])
    assert dict(read_weights(reader.folder))["odd"].shape == (9, 7)


def test_what_is_not_there_is_refused(tmp_path):
    reader = CheckpointReader(write(tmp_path, 1))
    with pytest.raises(InputError, match="holds 0 of 63 elements of even"):
        reader.read("even", "fp32", region(0, 63))
    with pytest.raises(InputError, match="odd is"):
        reader.check_shapes({"odd": (7, 9)})


def test_snapshot_is_a_copy(tmp_path):
    live = WEIGHT.clone()
    fragment = Fragment("odd", region(0, 63), {"fp32": live})
    folder = save(tmp_path, Alone(), [fragment], {"step": 3})
    live.zero_()
    assert torch.equal(CheckpointReader(folder).read("odd", "fp32", region(0, 63)), WEIGHT)


def test_replicas_share_the_writing_without_gap_or_overlap():
    whole = pieces()[0]
    shares = [whole.share(rank, 4) for rank in range(4)]
    assert [share.region.start for share in shares] == [0, *[share.region.stop for share in shares[:-1]]]
    assert shares[-1].region.stop == 63
    assert torch.equal(torch.cat([share.views["fp32"] for share in shares]), WEIGHT)


def test_retention_never_counts_or_removes_broken_ones(tmp_path):
    for step in (1, 2, 3, 4, 5, 6):
        write(tmp_path, step)
    (folder_of(tmp_path, 6) / "COMPLETE").unlink()
    retain(tmp_path, keep=1, keep_every=2, best=3)
    assert list_steps(tmp_path) == [2, 3, 4, 5, 6]


def test_newest_whole_checkpoint_is_found_by_looking(tmp_path):
    write(tmp_path, 1)
    newer = write(tmp_path, 2)
    tensors = newer / "rank-00000.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-4])
    assert "bytes of" in find_problem(newer)
    assert find_checkpoint(tmp_path, None) == folder_of(tmp_path, 1)
    with pytest.raises(InputError, match="not whole"):
        find_checkpoint(tmp_path, 2)
    with pytest.raises(InputError, match="no checkpoint there"):
        find_checkpoint(tmp_path / "empty", None)


def test_complete_names_every_file(tmp_path):
    folder = write(tmp_path, 9)
    listed = json.loads((folder / "COMPLETE").read_text())["files"]
    assert set(listed) == {path.name for path in folder.iterdir()} - {"COMPLETE"}

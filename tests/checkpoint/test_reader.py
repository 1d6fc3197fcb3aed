"""Checkpoint files: whole or not there, readable in any ranges."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tests.checkpoint.written import WEIGHT, pieces, region, write_as_ranks, write_checkpoint
from trainer.checkpoint.find import find_checkpoint, find_problem
from trainer.checkpoint.folders import folder_of
from trainer.checkpoint.fragment import Fragment
from trainer.checkpoint.reader import CheckpointReader, read_weights
from trainer.errors import InputError
from trainer.model.partition import Slice
from trainer.model.region import Region


def write(run_dir, step, *cuts):
    return write_checkpoint(run_dir, step, pieces(*cuts))


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


@pytest.mark.parametrize("writers", [0, 3, 1])
def test_reader_of_the_documentation_reads_slices_and_ranges(tmp_path, writers):
    page = Path(__file__).parents[2] / "docs" / "CHECKPOINTS.md"
    code = page.read_text().partition("```python\n")[2].partition("```")[0]
    names = {}
    exec(code, names)
    matrix = torch.arange(24, dtype=torch.float32).view(4, 6)
    halves = [(Slice(1, left, right), start) for start in (0, 6) for left, right in ((0, 3), (3, 6))]
    regions = [Region((4, 6), cut, start, start + 6) for cut, start in halves]
    by_rank = [[Fragment("cut", region, {"fp32": region.cut(matrix)})] for region in regions]
    for rank, more in enumerate(([], pieces(10)[:1], [], pieces(10)[1:])):
        by_rank[rank] += more
    folder = write_as_ranks(tmp_path, 1, by_rank, writers=writers)
    assert len(list(folder.glob("rank-*"))) == (writers or 4)
    with safe_open(folder / "index.safetensors", "np") as index:
        rows = list(zip(*(index.get_tensor(name).tolist() for name in names["COLUMNS"]), strict=True))
    assert rows[:2] == [(0, 0, 0, 0, 2, 2, 0, 6, 0), (0, 0, 1, 1, 2, 2, 0, 6, 0)]  # as the page says
    found = names["read"](folder)
    assert torch.equal(torch.from_numpy(found["cut"]), matrix)
    assert torch.equal(torch.from_numpy(found["odd"]).view(-1), WEIGHT)
    assert torch.equal(torch.from_numpy(names["read"](folder, "exp_avg")["odd"]).view(-1), -WEIGHT)

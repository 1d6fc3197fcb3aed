"""Checkpoints of version 1 are read, and a run that wrote one goes on from it, bit for bit."""

import json
import shutil

import torch

from tests.checkpoint.version_1 import write_version_1
from tests.checkpoint.written import WEIGHT, pieces, region
from tests.run_ranks import pretrain, run_ranks, small_config
from tests.states import assert_equal_states
from trainer.checkpoint.find import find_problem
from trainer.checkpoint.folders import folder_of
from trainer.checkpoint.fragment import Fragment
from trainer.checkpoint.reader import CheckpointReader
from trainer.checkpoint.state import read_object
from trainer.model.partition import Slice
from trainer.model.region import Region
from trainer.verbs.checkpoint import main


def test_any_range_is_read_from_fragments_of_any_ranks(tmp_path):
    matrix = torch.arange(24, dtype=torch.float32).view(4, 6)
    cuts = [Region((4, 6), Slice(1, left, left + 3), start, start + 6) for start in (0, 6) for left in (0, 3)]
    by_rank = [[Fragment("cut", cut, {"fp32": cut.cut(matrix)})] for cut in cuts]
    by_rank[1] += pieces(5, 16, 48)[::2]
    by_rank[3] += [*pieces(5, 16, 48)[1::2], Fragment("odd", region(63, 63), {"fp32": WEIGHT[:0]})]
    folder = write_version_1(tmp_path, 4, by_rank)
    assert find_problem(folder) is None
    reader = CheckpointReader(folder)
    assert list(reader.part_problems()) == []
    for start, stop in ((0, 63), (4, 6), (16, 48), (10, 50), (7, 7)):
        assert torch.equal(reader.read("odd", "exp_avg", region(start, stop)), -WEIGHT[start:stop])
    assert torch.equal(reader.read_whole("cut", "fp32"), matrix)
    rows = Region((4, 6), None, 5, 20)
    assert torch.equal(reader.read("cut", "fp32", rows), rows.cut(matrix))


def rewrite_as_version_1(folder, ranks):
    """Puts in a checkpoint's place what the former version would have written, cut among so many ranks."""
    reader = CheckpointReader(folder)
    by_rank = [[] for _ in range(ranks)]
    for name, shape in reader.shapes.items():
        views = {kind: reader.read_whole(name, kind).view(-1) for held, kind in reader.kinds if held == name}
        whole = Fragment(name, Region.of_slice(shape, None), views)
        for rank, fragments in enumerate(by_rank):
            fragments.append(whole.share(rank, ranks))
    state = {name: value for name, value in json.loads((folder / "state.json").read_text()).items() if name != "format"}
    shutil.rmtree(folder)
    write_version_1(folder.parents[1], state.pop("step"), by_rank, **state)


def test_run_goes_on_from_a_checkpoint_of_version_1(corpus, tmp_path):
    config = small_config(corpus, tmp_path / "run", train__steps=6, checkpoint__every=3, parallel__zero_stage=3)
    assert run_ranks(pretrain, config, 2) == [0, 0]
    config.run.dir, config.train.stop_at = str(tmp_path / "old"), 3
    assert run_ranks(pretrain, config, 2) == [85, 85]
    rewrite_as_version_1(folder_of(tmp_path / "old", 3), ranks=3)
    assert main(["verify", str(tmp_path / "old")]) == 0
    config.train.stop_at = None
    assert run_ranks(pretrain, config, 2) == [0, 0]
    assert [read_object(folder_of(tmp_path / "old", step))["format"] for step in (3, 6)] == [1, 2]
    assert_equal_states(tmp_path / "run", tmp_path / "old")

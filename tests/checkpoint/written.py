"""Checkpoints of one small parameter, without a run."""

from itertools import pairwise

import torch

from trainer.checkpoint.folders import folder_of
from trainer.checkpoint.fragment import Fragment
from trainer.checkpoint.writer import CheckpointWriter
from trainer.config import Checkpoint
from trainer.model.region import Region

WEIGHT = torch.arange(63, dtype=torch.float32)


class Alone:
    """A mesh of one rank."""

    rank, world_size, is_main = 0, 1, True

    def from_main(self, value):
        return value

    def first(self, problem):
        return problem


def region(start, stop):
    return Region((9, 7), None, start, stop)


def pieces(*cuts):
    """A parameter of odd size in fragments at these cuts, with one moment."""
    edges = [0, *cuts, 63]
    return [
        Fragment("odd", region(start, stop), {"fp32": WEIGHT[start:stop], "exp_avg": -WEIGHT[start:stop]})
        for start, stop in pairwise(edges)
    ]


def open_writer(run_dir, said=None, store=None, **settings):
    """A writer of one rank; `said` gets the lines that it says."""
    say = [].append if said is None else said.append
    return CheckpointWriter(run_dir, Alone(), Checkpoint(**{"keep": 100, **settings}), say, store)


def write_checkpoint(run_dir, step, fragments=None, **state):
    """The folder of a checkpoint, once it is whole."""
    open_writer(run_dir).save(pieces() if fragments is None else fragments, {"step": step, **state}, last=True)
    return folder_of(run_dir, step)

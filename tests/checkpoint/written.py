"""Checkpoints of one small parameter, without a run."""

import os
import threading
from itertools import pairwise

import torch

from trainer.checkpoint.data_file import DataFile, group_of
from trainer.checkpoint.folders import folder_of
from trainer.checkpoint.fragment import Fragment
from trainer.checkpoint.job import Job
from trainer.checkpoint.snapshot import take_snapshot
from trainer.checkpoint.writer import CheckpointWriter
from trainer.config import Checkpoint
from trainer.model.region import Region

WEIGHT = torch.arange(63, dtype=torch.float32)


class Alone:
    """A mesh of one rank."""

    rank, world_size, is_main = 0, 1, True

    def from_main(self, value):
        return value

    def main_finds(self, work):
        return work()

    def gather(self, value):
        return [value]

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


def write_as_ranks(run_dir, step, by_rank, *, writers=0, store=None, **state):
    """The folder of a checkpoint that ranks wrote, all in this process; `by_rank`: their fragments."""
    ranks = len(by_rank)
    target = folder_of(run_dir, step)
    folder = target.with_name(f"{target.name}.partial-0")
    os.makedirs(folder / target.name)
    os.makedirs(folder / "notes")
    snapshots = [take_snapshot(fragments, rank) for rank, fragments in enumerate(by_rank)]
    groups = [group_of(rank, ranks, writers) for rank in range(ranks)]
    jobs = [
        Job(
            folder=folder,
            target=target,
            rank=rank,
            world_size=ranks,
            data_file=DataFile(group.start, tuple(snapshots[member].elements for member in group)),
            snapshot=snapshot,
            state={"step": step, **state},
            retain=lambda: None,
            retain_copies=lambda: None,
            say=lambda line: None,
            store=store,
        )
        for rank, (group, snapshot) in enumerate(zip(groups, snapshots, strict=True))
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.thread.join()
    assert jobs[0].failure is None, jobs[0].failure
    return target


def run_as_ranks(ranks, work):
    """What `work` returns with each of so many meshes, whose collectives meet in threads of this process."""
    meshes = _meshes(ranks)
    found = [None] * ranks

    def act(mesh):
        try:
            found[mesh.rank] = work(mesh)
        except BaseException as error:
            found[mesh.rank] = error

    threads = [threading.Thread(target=act, args=(mesh,)) for mesh in meshes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def _meshes(ranks):
    barrier, shared = threading.Barrier(ranks), [None] * ranks

    class Mesh:
        def __init__(self, rank):
            self.rank, self.world_size, self.is_main = rank, ranks, rank == 0

        def gather(self, value):
            shared[self.rank] = value
            barrier.wait(60)
            found = list(shared)
            barrier.wait(60)
            return found

        def from_main(self, value):
            return self.gather(value)[0]

        def first(self, problem):
            return next((found for found in self.gather(problem) if found), None)

        def main_finds(self, work):
            result = error = None
            if self.is_main:
                try:
                    result = work()
                except Exception as caught:
                    error = caught
            result, error = self.from_main((result, error))
            if error is not None:
                raise error
            return result

    return [Mesh(rank) for rank in range(ranks)]

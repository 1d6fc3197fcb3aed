"""kill -9 at any moment: the same command goes on and ends with the same weights, bit for bit."""

import os
import random
import time

import pytest

from tests.run_ranks import pretrain, read_metrics, run_ranks, small_config, start_ranks
from tests.states import assert_equal_states
from trainer.checkpoint.find import find_problem
from trainer.checkpoint.folders import folder_of, list_steps

SHAPES = [*(pytest.param(*shape, marks=pytest.mark.full) for shape in [(1, 1), (1, 3), (2, 1)]), (2, 3)]
STEPS = 14


def configure(corpus, run_dir, stage):
    return small_config(
        corpus, run_dir, parallel__zero_stage=stage, train__steps=STEPS, checkpoint__every=4, model__dropout=0.1
    )


def kill_when(ranks, ready, timeout_s=120, after_s=0.0):
    """Kills every rank with SIGKILL as soon as `ready()`, or `after_s` later; fails if they end before."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline, "the moment to kill didn't come"
        assert all(process.is_alive() for process in ranks.processes), "a rank ended before it was killed"
        time.sleep(0.005)
    time.sleep(after_s)
    assert all(process.is_alive() for process in ranks.processes), "a rank ended before it was killed"
    ranks.kill()


def pretrain_stuck_in_checkpoint(config):
    """The verb, whose writer never gets past its first files: the moment at which it is killed."""
    from trainer.checkpoint import job as writing

    def hang(job):
        (job.target.parent / "writing").touch()
        time.sleep(600)

    writing.complete = hang
    return pretrain(config)


def steps_logged(run_dir):
    return len(read_metrics(run_dir)) if (run_dir / "metrics.jsonl").exists() else 0


def logged_since(run_dir, moment):
    path = run_dir / "metrics.jsonl"
    return path.exists() and any(row["time"] > moment for row in read_metrics(run_dir))


@pytest.mark.parametrize(("world_size", "stage"), SHAPES)
def test_resume_after_kills_matches_uninterrupted_run(corpus, tmp_path, world_size, stage):
    calm, disturbed = tmp_path / "calm", tmp_path / "disturbed"
    assert run_ranks(pretrain, configure(corpus, calm, stage), world_size) == [0] * world_size

    config = configure(corpus, disturbed, stage)
    moment = random.Random(f"{world_size}/{stage}").randint(5, 7)
    kill_when(start_ranks(pretrain, config, world_size), lambda: steps_logged(disturbed) >= moment)
    writing = disturbed / "checkpoints" / "writing"
    kill_when(start_ranks(pretrain_stuck_in_checkpoint, config, world_size), writing.exists)
    assert run_ranks(pretrain, config, world_size) == [0] * world_size

    assert_equal_states(calm, disturbed)
    ours = {row["step"]: row for row in read_metrics(disturbed)}
    assert len(read_metrics(disturbed)) == len(ours) == STEPS
    for row in read_metrics(calm):
        assert ours[row["step"]]["train/loss"] == row["train/loss"]
        assert ours[row["step"]]["train/grad_norm"] == row["train/grad_norm"]
    assert not list((disturbed / "checkpoints").glob("*.partial-*"))


@pytest.mark.full
@pytest.mark.parametrize("turn", range(10))
@pytest.mark.parametrize(("world_size", "stage"), [(1, 0), (2, 2), (2, 3), (4, 1)])
def test_many_kills_at_random_moments(corpus, tmp_path, world_size, stage, turn):
    calm, disturbed = tmp_path / "calm", tmp_path / "disturbed"
    assert run_ranks(pretrain, configure(corpus, calm, stage), world_size) == [0] * world_size
    config = configure(corpus, disturbed, stage)
    draw = random.Random(f"{world_size}/{stage}/{turn}")
    for _ in range(3):
        ranks = start_ranks(pretrain, config, world_size)
        time.sleep(draw.uniform(0.5, 4.0))
        ranks.kill()
    assert run_ranks(pretrain, config, world_size) == [0] * world_size
    assert_equal_states(calm, disturbed)


def pretrain_writing_slowly(config):
    """The verb, whose checkpoints take so long that most moments of training are moments of writing, too."""
    from trainer.checkpoint import job as writing

    draw = random.Random(os.getpid())

    def slow(work):
        def wait_and_work(*arguments):
            time.sleep(draw.uniform(0, 0.2))
            work(*arguments)

        return wait_and_work

    writing.write_rank, writing.complete = slow(writing.write_rank), slow(writing.complete)
    return pretrain(config)


def kill_while_saving(corpus, folder, world_size, stage, kills, seed, writers=0):
    """Kills a run at random moments of its asynchronous saves, then lets it end: it must be as if nothing had been."""
    calm, disturbed = folder / "calm", folder / "disturbed"
    config = configure(corpus, calm, stage)
    config.checkpoint.every, config.checkpoint.writers, config.train.steps = 2, writers, 40
    assert run_ranks(pretrain, config, world_size) == [0] * world_size

    config.run.dir = str(disturbed)
    draw = random.Random(seed)
    for _ in range(kills):
        began = time.time()
        ranks = start_ranks(pretrain_writing_slowly, config, world_size)
        kill_when(ranks, lambda began=began: logged_since(disturbed, began), after_s=draw.uniform(0, 0.6))
        problems = [find_problem(folder_of(disturbed, step)) for step in list_steps(disturbed)]
        assert not any(problems)  # what has its name is whole
    assert run_ranks(pretrain, config, world_size) == [0] * world_size
    assert_equal_states(calm, disturbed)
    assert [row["step"] for row in read_metrics(disturbed)] == list(range(1, 41))


@pytest.mark.parametrize("writers", [pytest.param(0, marks=pytest.mark.full), 1])
def test_three_kills_at_random_moments_of_asynchronous_saves(corpus, tmp_path, writers):
    kill_while_saving(corpus, tmp_path, 2, 1, kills=3, seed=0, writers=writers)


@pytest.mark.full
@pytest.mark.parametrize("turn", range(10))
def test_thirty_kills_at_random_moments_of_asynchronous_saves(corpus, tmp_path, turn):
    world_size, stage = [(1, 0), (2, 2), (2, 3)][turn % 3]
    kill_while_saving(corpus, tmp_path, world_size, stage, kills=3, seed=turn + 1)

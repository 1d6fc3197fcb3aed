"""kill -9 at any moment: the same command goes on and ends with the same weights, bit for bit."""

import random
import time

import pytest

from tests.ranks import pretrain, read_metrics, run_ranks, small_config, start_ranks
from tests.states import assert_equal_states

SHAPES = [(1, 1), (1, 3), (2, 1), (2, 3)]
STEPS = 14


def configure(corpus, run_dir, stage):
    return small_config(
        corpus, run_dir, parallel__zero_stage=stage, train__steps=STEPS, checkpoint__every=4, model__dropout=0.1
    )


def kill_when(ranks, ready, timeout_s=120):
    """Kills every rank with SIGKILL as soon as `ready()`; fails if they end before."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline, "the moment to kill didn't come"
        assert all(process.is_alive() for process in ranks.processes), "a rank ended before it was killed"
        time.sleep(0.005)
    ranks.kill()


def pretrain_stuck_in_checkpoint(config):
    """The verb, whose writer never gets past its first files: the moment at which it is killed."""
    from trainer.engine import checkpoint

    def hang(attempt, *rest):
        (attempt.parent / "writing").touch()
        time.sleep(600)

    checkpoint._complete = hang
    return pretrain(config)


def steps_logged(run_dir):
    return len(read_metrics(run_dir)) if (run_dir / "metrics.jsonl").exists() else 0


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

"""health.timing_every: a slow rank and slow data are named within 20 steps, and nobody is in quiet ones."""

import os
import re
import time
from functools import partial

import pytest

from tests.printed import Printing, printed_lines
from tests.run_ranks import pretrain, read_metrics, run_ranks, small_config

SLOW_FROM = 12  # step: the second of five that are compared, from where on it takes longest


def slowed(config, times=0.0, seconds=0.0):
    """The verb, whose rank 2 takes so many times as long for its forward, or so many seconds longer, from a step on."""
    if os.environ["RANK"] == "2":
        from trainer.engine.loop import Trainer
        from trainer.objective.causal import Causal

        take_step, losses = Trainer._take_step, Causal.losses
        steps = []

        def take(trainer, step):
            steps.append(step)
            return take_step(trainer, step)

        def longer(objective, engine, batch):
            began = time.perf_counter()
            found = losses(objective, engine, batch)
            if steps[-1] >= SLOW_FROM:
                time.sleep(seconds + times * (time.perf_counter() - began))
            return found

        Trainer._take_step, Causal.losses = take, longer
    return pretrain(config)


at_half_speed = partial(slowed, times=3.0)  # of the whole step, of which the forward is a third
far_behind = partial(slowed, seconds=0.1)  # whatever else this machine does


def configure(corpus, run_dir, **changes):
    usual = {"train__steps": SLOW_FROM + 20, "track__every": 10, "model__hidden_size": 96}
    return small_config(corpus, run_dir, **(usual | changes))


def named(folder, work, config, ranks):
    """Lines that name somebody, of a run that ends well."""
    assert run_ranks(Printing(work, folder / "out"), config, ranks) == [0] * ranks
    lines = printed_lines(folder / "out")
    assert any("trained" in line for line in lines)
    return [line for line in lines if "is slow" in line or "are slow" in line]


def check_slow(corpus, folder, stage, work):
    """The run ends 20 steps after the rank has become slow."""
    (line,) = named(folder, work, configure(corpus, folder, parallel__zero_stage=stage), 4)
    step, rank, host = re.match(r"step (\d+): rank (\d+) \((.*), cpu\) is slow", line).groups()
    assert (rank, host) == ("2", os.uname().nodename)
    assert int(step) > SLOW_FROM
    assert "mostly in forward" in line
    worst = max(read_metrics(folder), key=lambda row: row.get("health/slowest_ratio", 0.0))
    assert worst["health/slowest_rank"] == 2
    assert worst["health/slowest_ratio"] > 1.2


def test_a_rank_that_is_far_behind_is_named_within_20_steps(corpus, tmp_path):
    check_slow(corpus, tmp_path, 2, far_behind)


@pytest.mark.full
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_rank_at_half_speed_is_named_within_20_steps(corpus, tmp_path, stage):
    check_slow(corpus, tmp_path, stage, at_half_speed)


@pytest.mark.full
@pytest.mark.parametrize("stage", [0, 3])
def test_nobody_is_named_in_200_quiet_steps(corpus, tmp_path, stage):
    config = configure(corpus, tmp_path, parallel__zero_stage=stage, train__steps=200)
    assert named(tmp_path, pretrain, config, 4) == []


def from_a_slow_disk(config):
    """The verb, to which reading one row takes 60 ms, step by step."""
    from trainer.data.tokens import loader
    from trainer.data.tokens.dataset import Dataset

    loader.GATHERED_BATCHES = 4

    gather = Dataset.gather_rows

    def slow(dataset, shards, rows):
        time.sleep(0.06 * len(rows))
        return gather(dataset, shards, rows)

    Dataset.gather_rows = slow
    return pretrain(config)


@pytest.mark.full
def test_data_that_are_waited_for_are_named(corpus, tmp_path):
    (line,) = named(tmp_path, from_a_slow_disk, configure(corpus, tmp_path, train__steps=30), 1)
    assert re.search(rf"data are slow: .* mostly for train \({corpus}/train\)", line)
    assert max(row.get("health/data_share", 0.0) for row in read_metrics(tmp_path)) > 0.2

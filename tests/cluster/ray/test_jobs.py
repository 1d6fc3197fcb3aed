"""Runs on a Ray cluster: submitted, stopped, killed, refused."""

import json
import signal
import sys

import psutil
import pytest

from tests.cluster.ray.daemons import ENDLESS, SMALL_RUN, calm_rows, ranks_of, wait_until
from tests.run_ranks import read_metrics
from trainer.checkpoint.folders import list_steps

PRETRAIN = ["pretrain", "launch=ray", *SMALL_RUN]
STOP_WAIT = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "120"}})


def steps_logged(run_dir):
    return len(read_metrics(run_dir)) if (run_dir / "metrics.jsonl").exists() else 0


def submit(daemons, folder, *arguments, wait=True):
    """Submits `banyan ARGUMENTS` as a job called after the folder, which it starts in a copy of."""
    folder.mkdir()
    options = ["--working-dir", str(folder), "--runtime-env-json", STOP_WAIT, "--submission-id", folder.name]
    options += [] if wait else ["--no-wait"]
    return daemons.job("submit", *options, "--", sys.executable, "-P", "-m", "launch", *arguments, timeout_s=600)


def test_submitted_job_outlives_a_killed_worker_and_checkpoints_when_stopped(daemons, corpus, tmp_path):
    run_dir = tmp_path / "run"
    arguments = [*PRETRAIN, "launch.workers=2", f"data.path={corpus}", f"run.dir={run_dir}", *ENDLESS]
    assert submit(daemons, tmp_path / "first", *arguments, wait=False).returncode == 0

    def logs():
        return daemons.job("logs", "first").stdout

    wait_until(lambda: list_steps(run_dir), 240, logs)
    worker = ranks_of(run_dir)[1].parent()
    assert worker.name().startswith("ray::")
    worker.kill()
    begun = ranks_of(run_dir)
    psutil.wait_procs(begun, timeout=60)
    reached = steps_logged(run_dir)
    wait_until(lambda: steps_logged(run_dir) > reached + 3, 240, logs)
    daemons.job("stop", "first")
    assert "was stopped" in daemons.job("status", "first").stdout

    stopped = json.loads((run_dir / "stopped.json").read_text())
    steps = stopped["step"]
    assert stopped["reason"] == "signal"
    assert list_steps(run_dir)[-1] == steps
    log = logs()
    assert "starting again from the newest whole checkpoint" in log
    assert "step      1/100000" in log
    assert f"stopped (signal) after step {steps}, checkpointed" in log
    expected = calm_rows(corpus, tmp_path / "calm", steps, world_size=2)
    rows = read_metrics(run_dir)
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    for key in ("train/loss", "train/grad_norm"):
        assert [row[key] for row in rows] == [row[key] for row in expected]


def test_what_the_cluster_can_t_hold_is_refused_with_what_it_has(daemons, corpus, tmp_path):
    driver = daemons.banyan(
        *(*PRETRAIN, "launch.workers=64", "train.batch_size=64", f"data.path={corpus}", "train.steps=1"),
        log=tmp_path / "driver.log",
    )
    assert driver.wait(60) == 2
    assert "launch.workers=64 needs 64 × (1 CPU on one node), and the cluster has room for 4" in driver.output()
    assert "127.0.1.1 has 4 CPU" in driver.output()


@pytest.mark.full
def test_configuration_error_on_the_ranks_ends_the_job_at_once(daemons, tmp_path):
    driver = daemons.banyan(
        *(*PRETRAIN, "launch.workers=2", "data.path=/nowhere", f"run.dir={tmp_path / 'run'}", "train.steps=1"),
        log=tmp_path / "driver.log",
    )
    assert driver.wait() == 2
    lines = [line for line in driver.output().splitlines() if line.startswith("banyan: ")]
    assert len(lines) == 1
    assert "/nowhere" in lines[0]


@pytest.mark.full
def test_stopped_job_goes_on_when_it_is_submitted_again(daemons, corpus, tmp_path):
    run_dir = tmp_path / "run"
    arguments = [*PRETRAIN, "launch.workers=2", f"data.path={corpus}", f"run.dir={run_dir}", *ENDLESS]
    for name, until in (("once", 4), ("twice", 8)):
        submitted = submit(daemons, tmp_path / name, *arguments, f"train.stop_at={until}")
        assert submitted.returncode == 1  # Ray calls what doesn't end with 0 failed
        assert "exit code 85" in submitted.stdout + submitted.stderr
        assert [row["step"] for row in read_metrics(run_dir)] == list(range(1, until + 1))


@pytest.mark.full
def test_job_with_a_relative_run_directory_is_refused(daemons, corpus, tmp_path):
    submitted = submit(daemons, tmp_path / "relative", *PRETRAIN, "launch.workers=2", f"data.path={corpus}")
    assert "exit code 2" in submitted.stdout + submitted.stderr
    assert "run.dir is not set, and this job stands in a copy" in submitted.stdout + submitted.stderr


@pytest.mark.full
def test_gang_waits_for_one_that_runs_and_starts_after_it(daemons, corpus, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    arguments = [*PRETRAIN, "launch.workers=3", "train.batch_size=6", f"data.path={corpus}", "launch.start_timeout_s=5"]
    one = daemons.banyan(*arguments, f"run.dir={first}", "train.steps=100000", log=tmp_path / "one.log")
    one.wait_until(lambda: steps_logged(first) > 2)
    two = daemons.banyan(*arguments, f"run.dir={second}", "train.steps=5", log=tmp_path / "two.log")
    two.wait_until(lambda: "waiting for room: 3 × (1 CPU on one node) are needed, 1 CPU are free" in two.output())
    one.process.send_signal(signal.SIGTERM)
    assert one.wait() == 85
    assert two.wait() == 0
    assert len(read_metrics(second)) == 5


@pytest.mark.full
def test_waiting_gang_can_be_stopped(daemons, corpus, tmp_path):
    first = tmp_path / "first"
    arguments = [*PRETRAIN, "launch.workers=3", "train.batch_size=6", f"data.path={corpus}", "launch.start_timeout_s=1"]
    one = daemons.banyan(*arguments, f"run.dir={first}", "train.steps=100000", log=tmp_path / "one.log")
    one.wait_until(lambda: steps_logged(first) > 2)
    two = daemons.banyan(*arguments, f"run.dir={tmp_path / 'second'}", "train.steps=5", log=tmp_path / "two.log")
    two.wait_until(lambda: "waiting for room" in two.output())
    two.process.send_signal(signal.SIGINT)
    assert two.wait() == 128 + signal.SIGINT
    assert "stopped before the ranks were started" in two.output()
    one.process.kill()
    one.wait()
    wait_until(lambda: not ranks_of(first), 60)


@pytest.mark.full
def test_tensor_parallel_peers_are_placed_on_one_node(daemons, corpus, tmp_path):
    run_dir = tmp_path / "run"
    nodes = [daemons.add_node(number, cpus=3) for number in (2, 3)]  # 3 ranks each would tear a pair apart
    driver = daemons.banyan(
        *(*PRETRAIN, "launch.workers=6", "parallel.tensor=2", "train.batch_size=6", "model.num_attention_heads=4"),
        *("model.num_key_value_heads=2", f"data.path={corpus}", f"run.dir={run_dir}", "train.steps=3"),
        log=tmp_path / "driver.log",
    )
    assert driver.wait() == 0
    assert "tensor parallel 2" in driver.output()
    for node in nodes:
        daemons.kill_node(node)


@pytest.mark.full
def test_ranks_end_with_a_driver_that_is_killed(daemons, corpus, tmp_path):
    run_dir = tmp_path / "run"
    driver = daemons.banyan(
        *(*PRETRAIN, "launch.workers=2", f"data.path={corpus}", f"run.dir={run_dir}", "train.steps=100000"),
        log=tmp_path / "driver.log",
    )
    driver.wait_until(lambda: steps_logged(run_dir) > 2)
    ranks = ranks_of(run_dir)
    driver.process.kill()
    driver.process.wait()
    _, alive = psutil.wait_procs(ranks, timeout=60)
    assert not alive

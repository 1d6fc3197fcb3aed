"""Runs on a Ray cluster: submitted, stopped, killed, refused."""

import json
import signal
import sys

import psutil
import pytest

from tests.cluster.ray.daemons import SMALL_RUN, ranks_of, wait_until
from tests.ranks import pretrain, read_metrics, run_ranks, small_config
from trainer.engine.checkpoint import list_steps

STEPS = 200
PRETRAIN = ["pretrain", "launch=ray", *SMALL_RUN]
STOP_WAIT = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "120"}})


def steps_logged(run_dir):
    return len(read_metrics(run_dir)) if (run_dir / "metrics.jsonl").exists() else 0


def test_submitted_job_checkpoints_when_stopped_and_goes_on_when_submitted_again(daemons, corpus, tmp_path):
    run_dir, copied = tmp_path / "run", tmp_path / "project"
    copied.mkdir()
    banyan = [sys.executable, "-P", "-m", "launch", *PRETRAIN, "launch.workers=2", f"data.path={corpus}"]
    banyan += [f"run.dir={run_dir}", "train.steps=100000"]
    submit = ["submit", "--working-dir", str(copied), "--runtime-env-json", STOP_WAIT]
    assert daemons.job(*submit, "--no-wait", "--submission-id", "first", "--", *banyan).returncode == 0
    wait_until(lambda: steps_logged(run_dir) > 2, 240, lambda: daemons.job("logs", "first").stdout)
    daemons.job("stop", "first")
    assert "was stopped" in daemons.job("status", "first").stdout
    stopped = json.loads((run_dir / "stopped.json").read_text())
    assert stopped["reason"] == "signal"
    assert list_steps(run_dir) == [stopped["step"]]
    logs = daemons.job("logs", "first").stdout
    assert "step      1/100000" in logs
    assert f"stopped (signal) after step {stopped['step']}, checkpointed" in logs

    until = stopped["step"] + 3
    again = daemons.job(*submit, "--", *banyan, f"train.stop_at={until}", timeout_s=240)
    assert again.returncode == 1
    assert "exit code 85" in again.stdout + again.stderr
    assert [row["step"] for row in read_metrics(run_dir)] == list(range(1, until + 1))


def test_run_whose_worker_is_killed_is_the_undisturbed_run(daemons, corpus, tmp_path):
    calm, run_dir = tmp_path / "calm", tmp_path / "run"
    changes = {"train__steps": STEPS, "train__micro_batch_size": 1, "schedule__warmup_steps": 2}
    assert run_ranks(pretrain, small_config(corpus, calm, **changes), 2) == [0, 0]
    driver = daemons.banyan(
        *(*PRETRAIN, "launch.workers=2", f"data.path={corpus}", f"run.dir={run_dir}", f"train.steps={STEPS}"),
        *("schedule.warmup_steps=2", "schedule.min_ratio=0.1", "checkpoint.every=20"),
        log=tmp_path / "driver.log",
    )
    driver.wait_until(lambda: list_steps(run_dir))
    worker = ranks_of(run_dir)[1].parent()
    assert worker.name().startswith("ray::")
    worker.kill()
    assert driver.wait() == 0
    assert "worker 1 was lost" in driver.output()
    assert "starting again from the newest whole checkpoint" in driver.output()
    rows, expected = read_metrics(run_dir), read_metrics(calm)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
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
def test_gang_waits_for_one_that_runs_and_starts_after_it(daemons, corpus, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    arguments = [*PRETRAIN, "launch.workers=3", f"data.path={corpus}", "launch.start_timeout_s=5"]
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
    arguments = [*PRETRAIN, "launch.workers=3", f"data.path={corpus}", "launch.start_timeout_s=1"]
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

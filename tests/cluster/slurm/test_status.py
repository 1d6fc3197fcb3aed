"""What `banyan status` and `banyan logs` say, on a login node, of a run from the queue to its end."""

import json
import os
import sys
import time

import pytest

from tests.cluster.slurm.jobs import ON_CPUS, ROOT, Job, arguments, banyan, settings, submit_pretrain

MINUTES = 10  # the jobs' time limit


def ask(cluster, verb, run_dir, *more):
    """What a verb prints on the login node."""
    command = [sys.executable, "-P", "-m", "launch", verb, str(run_dir), *more]
    own = {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = cluster.run(command, environment=own, timeout_s=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def status_of(cluster, run_dir):
    return json.loads(ask(cluster, "status", run_dir, "format=json"))[0]


@pytest.mark.full
def test_a_run_is_followed_from_the_queue_to_its_end(cluster, corpus, tmp_path):
    blocker = cluster.submit("--nodes=3", "--exclusive", "--wrap", "sleep 600", folder=tmp_path)
    cluster.wait(blocker, until={"RUNNING"})
    run_dir = tmp_path / "run"
    keys = arguments(settings(corpus, 100_000, every=20), run_dir)
    done = banyan(cluster, tmp_path, "launch.nodes=2", f"launch.time={MINUTES}", "launch.grace_s=30", *keys)
    assert done.returncode == 0, done.stderr
    job = Job(cluster, done.stdout.split()[1], run_dir, run_dir / f"logs/slurm-{done.stdout.split()[1]}.log")
    found = status_of(cluster, run_dir)
    assert (found["state"], found["lives"], found["step"]) == ("queued", False, 0)
    assert found["queue"]["job"] == job.number
    assert f"job {job.number} waits (" in found["reason"]
    assert f"  queue      slurm job {job.number}: pending, " in ask(cluster, "status", run_dir)

    cluster.run(["scancel", blocker])
    job.wait_for_step(25)
    found = status_of(cluster, run_dir)
    assert found["state"] in ("training", "saving")
    assert (found["launcher"], found["job"], found["ranks"], found["hosts"]) == ("slurm", job.number, 2, ["n1", "n2"])
    assert (found["host"], found["queue"]["state"], found["queue"]["nodes"]) == ("n1", "RUNNING", "n[1-2]")
    assert 0 < found["queue"]["seconds_left"] < 60 * MINUTES
    assert 0 < found["seconds_left"] < 86400
    assert abs(time.time() - found["since"]) < 300
    assert "of its time limit left" in ask(cluster, "status", run_dir)

    job.near_time_limit()
    job.wait_for(lambda: job.state()["JobState"] == "PENDING", "its place in the queue")
    cluster.run(["scontrol", "hold", job.number])  # or it might start before it is asked about
    found = status_of(cluster, run_dir)
    assert (found["state"], found["lives"]) == ("queued", False)
    assert found["reason"].endswith("before that, stopped: time")
    assert "queued" in ask(cluster, "status", tmp_path)  # the table
    cluster.run(["scontrol", "release", job.number])
    job.let_go_on(restarts=1)
    job.wait_for(lambda: status_of(cluster, run_dir)["starts"] == 2, "its second start")
    reached = found["step"]
    job.wait_for_step(reached + 5)
    found = status_of(cluster, run_dir)
    assert [restart["step"] for restart in found["restarts"]] == [reached]
    assert found["restarts"][0]["reason"] == "stopped: time"
    (run_dir / "stop").touch()
    assert job.wait_for_end() == "FAILED"  # SLURM calls 85 so
    found = status_of(cluster, run_dir)
    assert (found["state"], found["reason"], found["queue"]) == ("stopped", "stopped: file", None)
    shown = ask(cluster, "logs", run_dir)  # it follows, and ends: no job is in the queue
    assert f"stopped (file) after step {found['step']}" in shown


@pytest.mark.full
def test_a_killed_rank_is_the_first_error_of_the_logs(cluster, corpus, tmp_path):
    keys = settings(corpus, 100_000, every=20)
    job = submit_pretrain(cluster, tmp_path, ["--nodes=2", *ON_CPUS], arguments(keys, tmp_path / "run"))
    job.wait_for_step(25)
    job.signal_ranks(9, rank=1)
    job.wait_for(lambda: "starting the ranks again" in job.log, "another start in the allocation")
    job.wait_for(lambda: len(status_of(cluster, job.run_dir)["restarts"]) == 1, "its second start")
    (restart,) = status_of(cluster, job.run_dir)["restarts"]
    assert "rank 1 on n2 was killed by SIGKILL" in restart["reason"]
    cluster.run(["scancel", job.number])
    assert job.wait_for_end() == "CANCELLED"
    assert status_of(cluster, job.run_dir)["state"] == "stopped"
    assert os.listdir(job.run_dir / "logs")
    assert "rank 1 on n2 was killed by SIGKILL" in ask(cluster, "logs", job.run_dir, "lines=1000")

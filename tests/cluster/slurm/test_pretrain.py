"""A run on a real SLURM: the same numbers as a local one, whatever happens to it on the way."""

import signal

import pytest

from tests.cluster.slurm.jobs import ON_CPUS, Job, arguments, banyan, calm_run, course, settings, submit_pretrain

STEPS = 100


@pytest.fixture(scope="module")
def keys(corpus):
    return settings(corpus, STEPS, every=20)


@pytest.fixture(scope="module")
def calm(keys, tmp_path_factory):
    """Two local processes, undisturbed."""
    return course(calm_run(keys, tmp_path_factory.mktemp("calm") / "run"))


def submit(cluster, folder, keys, *options):
    return submit_pretrain(cluster, folder, ["--nodes=2", *ON_CPUS, *options], arguments(keys, folder / "run"))


def take_all_nodes(cluster, folder):
    """A job of a higher priority that needs every node for a moment."""
    return cluster.submit("--partition=high", "--nodes=3", "--exclusive", "--wrap", "sleep 1", folder=folder)


def test_a_killed_rank_and_a_time_limit_leave_the_losses_of_a_calm_local_run(cluster, keys, calm, tmp_path):
    job = submit(cluster, tmp_path, keys)
    job.wait_for_step(25)
    job.signal_ranks(signal.SIGKILL, rank=1)
    job.wait_for(lambda: "starting the ranks again" in job.log, "another start in the allocation")
    assert job.state()["Restarts"] == "0"
    assert "rank 1 on n2 was killed by SIGKILL" in job.log
    job.wait_for_step(45)
    job.near_time_limit()
    job.let_go_on(restarts=1)
    assert job.wait_for_end() == "COMPLETED", job.log
    assert course(job.run_dir) == calm, job.log
    assert job.log.count("going on from") == 2


@pytest.mark.full
def test_the_jobs_of_a_chain_go_on_from_each_other(cluster, keys, calm, tmp_path):
    done = banyan(
        cluster,
        tmp_path,
        *("launch.nodes=2", "launch.chain=3", "launch.time=10", "launch.grace_s=30"),
        *arguments(keys, tmp_path / "run"),
    )
    assert done.returncode == 0, done.stderr
    numbers = done.stdout.splitlines()[0].removeprefix("jobs ").partition(" submitted")[0].split()
    jobs = [Job(cluster, number, tmp_path / "run", tmp_path / f"run/logs/slurm-{number}.log") for number in numbers]
    assert f"tail -F {jobs[0].log_file}" in done.stdout
    jobs[0].wait_for_step(25)
    jobs[0].near_time_limit()
    assert jobs[0].wait_for_end() == "FAILED", jobs[0].log
    assert jobs[0].state()["ExitCode"] == "85:0", jobs[0].log
    assert [job.wait_for_end() for job in jobs[1:]] == ["COMPLETED", "COMPLETED"]
    assert course(tmp_path / "run") == calm
    assert "going on from" in jobs[1].log
    assert "finished before" in jobs[2].log


@pytest.mark.full
def test_a_job_preempted_during_a_checkpoint_gives_way_and_comes_back(cluster, keys, calm, tmp_path):
    job = submit(cluster, tmp_path, {**keys, "checkpoint.every": 1, "track.wandb.mode": "offline"}, "--partition=low")
    job.wait_for_step(20)  # one or another of its checkpoints is being written at any moment
    other = take_all_nodes(cluster, tmp_path)
    job.let_go_on(restarts=1)
    cluster.wait(other, until={"COMPLETED"})
    assert job.wait_for_end() == "COMPLETED", job.log
    assert course(job.run_dir) == calm, job.log
    assert "stopped (signal)" in job.log
    assert job.state()["Restarts"] == "1"
    records = [path.name for path in (job.run_dir / "wandb").glob("offline-run-*")]
    assert len(records) == 2, "one for each start"
    assert len({name.rpartition("-")[2] for name in records}) == 1, "of one and the same W&B run"


@pytest.mark.full
def test_a_stopped_rank_is_noticed_and_named_and_the_run_goes_on(cluster, keys, calm, tmp_path):
    job = submit(cluster, tmp_path, {**keys, "health.hang_timeout_s": 15})
    job.wait_for_step(25)
    job.signal_ranks(signal.SIGSTOP, rank=1)
    job.wait_for(lambda: "starting the ranks again" in job.log, "another start in the allocation")
    assert "rank 1 (host n2" in job.log, job.log
    assert "gives no sign of life" in job.log
    assert "most recent call first" in (job.run_dir / "logs" / "rank-00000.log").read_text()  # the stacks
    assert job.wait_for_end() == "COMPLETED", job.log
    assert course(job.run_dir) == calm, job.log


@pytest.mark.full
@pytest.mark.parametrize("node", ["n1", "n2"])  # with rank 0 and the batch script, and without
def test_a_run_goes_on_without_a_node_that_died(isolated_cluster, keys, calm, tmp_path, node):
    job = submit(isolated_cluster, tmp_path, keys)
    job.wait_for_step(25)
    assert job.state()["NodeList"] == "n[1-2]"
    isolated_cluster.kill_node(node)
    job.let_go_on(restarts=1)
    assert job.wait_for_end() == "COMPLETED", job.log
    assert course(job.run_dir) == calm, job.log


@pytest.mark.full
def test_an_elastic_run_goes_on_with_the_nodes_that_are_left(isolated_cluster, keys, calm, tmp_path):
    isolated_cluster.run(["scontrol", "update", "NodeName=n3", "State=DRAIN", "Reason=test"])
    overrides = arguments(keys, tmp_path / "run", "launch.elastic=true", "launch.nodes=2")
    done = banyan(isolated_cluster, tmp_path, *overrides)
    assert done.returncode == 0, done.stderr
    number = done.stdout.split()[1]
    job = Job(isolated_cluster, number, tmp_path / "run", tmp_path / f"run/logs/slurm-{number}.log")
    job.wait_for_step(25)
    isolated_cluster.kill_node("n2")
    job.let_go_on(restarts=1)
    assert job.wait_for_end() == "COMPLETED", job.log
    assert [f"{nodes} ranks on" in job.log for nodes in (1, 2)] == [True, True], job.log
    for ours, theirs in zip(course(job.run_dir), calm, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.full
def test_a_long_run_survives_a_time_limit_a_dead_rank_and_a_dead_node_in_turn(isolated_cluster, corpus, tmp_path):
    keys = settings(corpus, 240, every=25)
    job = submit(isolated_cluster, tmp_path, keys)
    job.wait_for_step(60)
    job.near_time_limit()
    job.let_go_on(restarts=1)
    job.wait_for_step(110)
    job.signal_ranks(signal.SIGKILL, rank=0)
    job.wait_for(lambda: "starting the ranks again" in job.log, "another start in the allocation")
    job.wait_for_step(170)
    isolated_cluster.kill_node(job.state()["BatchHost"])
    job.let_go_on(restarts=2)
    assert job.wait_for_end() == "COMPLETED", job.log
    calm = course(calm_run(keys, tmp_path / "calm"))
    assert len(calm) == 240
    assert course(job.run_dir) == calm, job.log

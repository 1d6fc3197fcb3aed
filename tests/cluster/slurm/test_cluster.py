"""The private cluster does what the tests that use it rely on."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.slurm.cluster import SlurmCluster, find_obstacle
from tests.cluster.slurm.conftest import give_up

SHOW = "echo $(hostname) $SLURM_PROCID $CUDA_VISIBLE_DEVICES"


def wait_for(ready, timeout_s=20):
    """What `ready` returns, once that is true."""
    deadline = time.monotonic() + timeout_s
    while not (found := ready()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)
    return found


def state_of(pid):
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def command_lines():
    """Of every process."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_text()


def test_a_step_runs_on_two_nodes_with_a_gpu_for_each_task(cluster):
    task = ["--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=2", "--gpu-bind=single:1", "bash", "-c", SHOW]
    lines = cluster.run(["srun", *task]).stdout.split("\n")
    hosts = ["n1", "n1", "n2", "n2"] if cluster.isolated else [os.uname().nodename.split(".")[0]] * 4
    assert sorted(filter(None, lines)) == [f"{host} {rank} {rank % 2}" for rank, host in enumerate(hosts)]


def test_an_impossible_job_is_refused(cluster):
    with pytest.raises(RuntimeError, match="Node count specification invalid"):
        cluster.submit("--nodes=9", "--wrap", "true")


def test_processes_of_a_rank_are_found_and_can_be_stopped(cluster, tmp_path):
    job = cluster.submit("--nodes=2", "--wrap", "srun sleep 600", folder=tmp_path)
    cluster.wait(job, until={"RUNNING"})
    found = wait_for(lambda: cluster.pids_on("n2", job, rank=1))
    assert {"batch", "sleep"} <= {step["Name"] for step in cluster.steps(job)}
    os.kill(found[0], signal.SIGSTOP)
    wait_for(lambda: state_of(found[0]) == "T")
    cluster.clean_up()
    assert not Path(f"/proc/{found[0]}").exists()


def test_a_requeued_job_starts_again(cluster, tmp_path):
    job = cluster.submit("--wrap", "sleep $((600 * (1 - SLURM_RESTART_COUNT)))", folder=tmp_path)
    cluster.wait(job, until={"RUNNING"})
    cluster.run(["scontrol", "requeue", job])
    cluster.wait(job, until={"PENDING"})
    cluster.start_now(job)
    ended = cluster.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), ended


def test_a_second_cluster_runs_beside_the_first_and_dies_with_its_process(cluster):
    program = (
        "from tests.cluster.slurm.cluster import SlurmCluster\n"
        "cluster = SlurmCluster(nodes=1, gpus=0)\n"
        "cluster.start()\n"
        "print(cluster.folder, cluster.run(['srun', 'echo', 'beside']).stdout, flush=True)\n"
        "input()\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        folder, said = other.stdout.readline().split()
        assert said == "beside"
        other.kill()
    wait_for(lambda: not any(folder in line for line in command_lines()))  # daemons don't outlive their process
    assert cluster.run(["srun", "echo", "alive"]).stdout == "alive\n"


def test_nodes_on_the_loopback_where_namespaces_cannot_be_had(tmp_path):
    obstacle = find_obstacle()
    if obstacle:
        give_up(obstacle)
    cluster = SlurmCluster(nodes=2, isolated=False)
    cluster.start()
    try:
        job = cluster.submit("--nodes=2", "--wrap", "srun sleep 600", folder=tmp_path)
        cluster.wait(job, until={"RUNNING"})
    finally:
        cluster.stop()
    assert not cluster.folder.exists()


@pytest.mark.full
def test_a_job_of_low_priority_gives_way_and_comes_back(cluster, tmp_path):
    low = cluster.submit("--partition=low", "--nodes=3", "--exclusive", "--wrap", "sleep 600", folder=tmp_path)
    cluster.wait(low, until={"RUNNING"})
    high = cluster.submit("--partition=high", "--nodes=3", "--exclusive", "--wrap", "sleep 1", folder=tmp_path)
    cluster.wait(high, until={"COMPLETED"}, timeout_s=120)
    assert cluster.wait(low, until={"PENDING", "RUNNING"})["Restarts"] == "1"
    cluster.wait(low, until={"RUNNING"})


@pytest.mark.full
def test_a_dead_node_is_noticed_and_its_job_goes_on_elsewhere(isolated_cluster, tmp_path):
    cluster = isolated_cluster
    job = cluster.submit("--nodes=2", "--wrap", "srun sleep 600", folder=tmp_path)
    node = cluster.wait(job, until={"RUNNING"})["BatchHost"]
    cluster.kill_node(node)
    cluster.wait(job, until={"PENDING"}, timeout_s=90)
    cluster.start_now(job)
    again = cluster.wait(job, until={"RUNNING"})
    assert again["Restarts"] == "1"
    assert again["BatchHost"] != node
    cluster.revive_node(node)
    assert cluster.run(["srun", f"--nodelist={node}", "echo", "back"]).stdout == "back\n"

"""Ray inside an allocation: the numbers of a local run, a stop near the time limit, and nothing left behind."""

import importlib.util
import json
from pathlib import Path

import pytest

from tests.cluster.slurm.conftest import give_up
from tests.cluster.slurm.jobs import SCRIPTS, Job, arguments, calm_run, course, settings, write_setup

STEPS = 60
OPTIONS = ["--nodes=2", "--gpus-per-node=0", "--cpus-per-task=2"]
RANKS = ["launch=ray", "launch.workers=2", "launch.cpus_per_worker=2"]  # one on each node


@pytest.fixture(autouse=True)
def ray_installed():
    if importlib.util.find_spec("ray") is None:
        give_up('Ray is not installed: pip install -e ".[ray]"')


def submit(cluster, folder, keys):
    export = f"--export=ALL,BANYAN_SETUP={write_setup(folder)},BANYAN_RAY=--object-store-memory=100000000"
    command = ["python", "-P", "-m", "launch", "pretrain", *RANKS, *arguments(keys, folder / "run")]
    number = cluster.submit(*OPTIONS, export, str(SCRIPTS / "ray_cluster.sbatch"), *command, folder=folder)
    return Job(cluster, number, folder / "run", folder / f"banyan-ray-{number}.log")


@pytest.mark.full
def test_a_run_on_ray_in_an_allocation_stops_near_the_limit_and_is_the_calm_run(cluster, corpus, tmp_path):
    keys = settings(corpus, STEPS, every=20)
    job = submit(cluster, tmp_path, keys)
    job.wait_for_step(5)
    assert "Ray on 2 nodes" in job.log
    job.near_time_limit()
    job.let_go_on(restarts=1)
    assert json.loads((job.run_dir / "stopped.json").read_text())["reason"] == "time"
    assert job.wait_for_end() == "COMPLETED", job.log
    assert course(job.run_dir) == course(calm_run(keys, tmp_path / "calm")), job.log
    assert not list(Path("/tmp").glob(f"ray-{job.number}-*"))
    assert not any(cluster.pids_on(node, job.number) for node in cluster.nodes)


@pytest.mark.full
def test_the_commands_exit_code_is_the_jobs(cluster, corpus, tmp_path):
    job = submit(cluster, tmp_path, settings(tmp_path / "nowhere", STEPS, every=20))
    assert job.wait_for_end() == "FAILED", job.log
    assert job.state()["ExitCode"] == "2:0", job.log

"""`sbatch slurm/sweep.sbatch`: a sweep stops near the time limit, is queued again, and goes on where it stood."""

import csv
import importlib.util

import pytest

from tests.cluster.slurm.conftest import give_up
from tests.cluster.slurm.jobs import SCRIPTS, Job, course, last_step, settings, write_setup

STEPS, EVERY = 400, 40
OPTIONS = ["--nodes=2", "--gpus-per-node=0", "--cpus-per-task=2"]


@pytest.fixture(autouse=True)
def sweep_installed():
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("optuna") is None:
        give_up('Ray or Optuna is not installed: pip install -e ".[sweep]"')


def submit(cluster, folder, corpus):
    export = f"--export=ALL,BANYAN_SETUP={write_setup(folder)},BANYAN_RAY=--object-store-memory=100000000"
    keys = settings(corpus, STEPS, every=EVERY)
    for kept in ("checkpoint.every", "evaluate.every"):
        del keys[kept]
    ours = ["search=random", "search.trials=3", f"search.every={EVERY}", f"search.dir={folder / 'sweep'}"]
    ours += ["search.ranks_per_trial=2", "search.space.optimizer.lr=loguniform(1e-3,1e-2)"]
    overrides = [*ours, *(f"{key}={value}" for key, value in keys.items())]
    number = cluster.submit(*OPTIONS, export, str(SCRIPTS / "sweep.sbatch"), *overrides, folder=folder)
    return Job(cluster, number, folder / "sweep" / "trials" / "00000", folder / f"banyan-sweep-{number}.log")


@pytest.mark.full
def test_a_sweep_in_an_allocation_stops_near_the_limit_and_goes_on(cluster, corpus, tmp_path):
    """Two nodes, on each of which one trial of two ranks has room."""
    job = submit(cluster, tmp_path, corpus)
    other = job.run_dir.with_name("00001")
    job.wait_for(lambda: min(last_step(job.run_dir), last_step(other)) >= 5, "two trials at once", 600)
    assert "2 at once" in job.log
    job.near_time_limit()
    job.let_go_on(restarts=1)
    assert "the same command goes on" in job.log
    assert job.wait_for_end(900) == "COMPLETED", job.log
    with (tmp_path / "sweep" / "results.csv").open() as file:
        assert [row["state"] for row in csv.DictReader(file)] == ["finished"] * 3
    for number in range(3):
        run_dir = tmp_path / "sweep" / "trials" / f"{number:05d}"
        assert [step for step, _, _ in course(run_dir)] == list(range(1, STEPS + 1))
    assert "going on from" in (job.run_dir / "log.txt").read_text()
    assert not any(cluster.pids_on(node, job.number) for node in cluster.nodes)

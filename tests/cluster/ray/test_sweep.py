"""`banyan sweep` on a real Ray cluster: trials of real ranks are stopped, killed, gone on with and exploited."""

import contextlib
import csv
import importlib.util
import json
import math
import os
import signal
import sys

import psutil
import pytest
import yaml

from launch.compose import compose
from tests.cluster.ray.daemons import Daemons, ranks_of, wait_until
from trainer.config import as_stored_values
from trainer.run.directory import identity
from trainer.track.sinks.journal import read_metrics

SMALL = [
    *("data.sequence_length=32", "train.batch_size=8", "train.micro_batch_size=1", "track.every=1"),
    *("model.hidden_size=48", "model.intermediate_size=96", "model.num_hidden_layers=2", "schedule.warmup_steps=2"),
    *("track.wandb.mode=disabled", "evaluate.rows=8", "optimizer.lr=1e-2"),
]

BUSY = {  # others may be using the machine
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
    "RAY_worker_niceness": "0",
}


@pytest.fixture(scope="module")
def cluster():
    """A cluster with room for one trial of two ranks, or two of one."""
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("optuna") is None:
        message = 'Ray or Optuna is not installed: pip install -e ".[sweep]"'
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    os.environ.update(BUSY)
    daemons = Daemons(cpus=2)
    yield daemons
    daemons.stop()


class Sweeping:
    """Starts sweeps of a name in a folder, and reads what they leave."""

    def __init__(self, cluster, corpus, folder):
        self.cluster, self.corpus, self.folder = cluster, corpus, folder
        self.directory = folder / "sweep"
        self.starts = 0

    def start(self, *overrides):
        self.starts += 1
        log = self.folder / f"start-{self.starts}.log"
        common = [f"data.path={self.corpus}", f"search.dir={self.directory}", "search.name=test", *SMALL]
        return self.cluster.banyan("sweep", *common, *overrides, log=log)

    def run(self, *overrides, code=0):
        driver = self.start(*overrides)
        assert driver.wait(1200) == code, driver.output()
        return driver.output()

    def trial(self, number):
        return self.directory / "trials" / f"{number:05d}"

    def record(self, number):
        return json.loads((self.trial(number) / "trial.json").read_text())

    def states(self):
        with (self.directory / "results.csv").open() as file:
            return [row["state"] for row in csv.DictReader(file)]


@pytest.fixture
def sweeping(cluster, corpus, tmp_path):
    return Sweeping(cluster, corpus, tmp_path)


def processes_of(run_dir):
    """The processes of a trial: what a Ray worker started."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if f"run.dir={run_dir}" in process.cmdline():
                found.append(process)
    return found


def losses_of(run_dir):
    return {row["step"]: row["train/loss"] for row in read_metrics(run_dir) if "train/loss" in row}


def steps_of(run_dir):
    return [row["step"] for row in read_metrics(run_dir) if "train/loss" in row]


def test_asha_stops_a_bad_sharded_trial_and_a_diverged_one_ends_alone(sweeping):
    """One place for trials of two ranks: each can begin only once the ranks of the one before have ended."""
    steps = 60
    output = sweeping.run(
        *("search=asha", "search.searcher=grid", "search.space.model.initializer_range=grid(0.05,4.0,1e30)"),
        *(f"train.steps={steps}", "search.every=10", "search.reduction=2"),
        *("launch.processes=2", "parallel.zero_stage=2"),
    )
    assert "1 at once" in output
    assert sweeping.states() == ["finished", "stopped", "diverged"]
    assert steps_of(sweeping.trial(0)) == list(range(1, steps + 1))
    assert 10 <= max(steps_of(sweeping.trial(1))) < steps
    assert "the gradient norm is not finite" in output or "the loss is" in output
    assert not any(ranks_of(sweeping.trial(number)) for number in range(3))
    assert json.loads((sweeping.trial(0) / "facts.json").read_text())["world_size"] == 2

    best = compose("pretrain", ["experiment=best"], sweeping.directory / "conf")
    assert json.loads((sweeping.directory / "results.json").read_text())["best"]["trial"] == 0
    trained = (sweeping.trial(0) / "config.yaml").read_text()
    mine, theirs = identity(as_stored_values(best)), identity(yaml.safe_load(trained))
    settled = {"model.vocab_size", "data.path", "train.precision"}  # by the data and the devices, as a run begins
    assert {key for key in mine if mine[key] != theirs[key]} <= settled
    assert (sweeping.directory / "sweep.png").stat().st_size > 10_000


@pytest.mark.full
def test_a_killed_sweep_goes_on_and_redoes_nothing(sweeping):
    overrides = ["search=random", "search.trials=2", "search.max_concurrent=1", "search.every=25", "train.steps=120"]
    overrides += ["search.space.optimizer.lr=loguniform(1e-3,1e-2)"]
    driver = sweeping.start(*overrides)
    checkpoints = sweeping.trial(1) / "checkpoints"
    driver.wait_until(lambda: list(checkpoints.glob("step-*[0-9]/COMPLETE")), 600)
    os.kill(driver.process.pid, signal.SIGKILL)
    driver.process.wait()
    wait_until(lambda: not ranks_of(sweeping.trial(1)), 60)
    begun = (sweeping.trial(0) / "log.txt").read_bytes()

    output = sweeping.run(*overrides)
    assert "going on: 1 trials have ended before" in output
    assert sweeping.states() == ["finished"] * 2
    assert (sweeping.trial(0) / "log.txt").read_bytes() == begun
    assert "going on from" in (sweeping.trial(1) / "log.txt").read_text()
    for number in range(2):
        assert steps_of(sweeping.trial(number)) == list(range(1, 121))
    assert "all 2 trials have ended before" in sweeping.run(*overrides)


@pytest.mark.full
def test_pbt_goes_on_from_the_better_trial_with_its_weights(sweeping):
    """The data are the same, so right after an exploit the loss is the donor's at that step, before any update."""
    sweeping.run(
        *("search=pbt", "search.trials=2", "search.quantile=0.5", "search.seed=1"),
        *("search.space.optimizer.lr=choice(1e-2,1e-7)", "train.steps=150", "search.every=50"),
    )
    records = [sweeping.record(number) for number in range(2)]
    bad = next(number for number in range(2) if records[number]["segments"][0]["values"]["optimizer.lr"] == "1e-7")
    exploits = [segment for segment in records[bad]["segments"] if segment["fork_from"]]
    assert exploits, records
    donor, _, step = exploits[0]["fork_from"].rpartition("@")
    assert donor == str(sweeping.trial(1 - bad) / "segment-00")
    after, theirs = losses_of(sweeping.trial(bad) / "segment-01"), losses_of(sweeping.trial(1 - bad) / "segment-00")
    assert min(after) == int(step) + 1
    assert math.isclose(after[int(step) + 1], theirs[int(step) + 1], rel_tol=1e-5)
    assert records[bad]["state"] == "finished"


def test_a_trial_that_no_node_can_hold_is_named(sweeping):
    output = sweeping.run("search.space.optimizer.lr=uniform(0,1)", "search.ranks_per_trial=8", code=2)
    assert "a trial of 8 ranks needs 8 CPUs on one node, and the largest node has 2" in output


@pytest.mark.full
@pytest.mark.parametrize("search", ["hyperband", "tpe"])
def test_other_schedulers_and_searchers_end_with_a_whole_trial(sweeping, search):
    sweeping.run(
        *(f"search={search}", "search.trials=6", "search.space.optimizer.lr=loguniform(1e-6,3e-2)"),
        *("train.steps=270", "search.every=30"),
    )
    states = sweeping.states()
    assert len(states) == 6
    assert "finished" in states
    assert set(states) <= {"finished", "stopped"}


@pytest.mark.full
def test_a_terminated_sweep_checkpoints_its_trials_and_goes_on(sweeping):
    overrides = ["search=random", "search.trials=2", "search.every=500", "train.steps=1000"]
    overrides += ["search.space.optimizer.lr=loguniform(1e-3,1e-2)", "search.metric=train/loss"]
    driver = sweeping.start(*overrides)
    driver.wait_until(lambda: all((sweeping.trial(number) / "metrics.jsonl").exists() for number in range(2)))
    driver.process.send_signal(signal.SIGTERM)
    assert driver.wait(300) == 85
    assert "the same command goes on" in driver.output()
    assert all(
        json.loads((sweeping.trial(number) / "stopped.json").read_text())["reason"] == "signal" for number in range(2)
    )
    sweeping.run(*overrides)
    for number in range(2):
        assert steps_of(sweeping.trial(number)) == list(range(1, 1001))


@pytest.mark.full
def test_a_lost_worker_costs_a_trial_only_the_steps_since_its_checkpoint(sweeping):
    overrides = ["search=random", "search.trials=1", "search.every=50", "train.steps=1000"]
    driver = sweeping.start(*overrides, "search.space.optimizer.lr=loguniform(1e-3,1e-2)")
    driver.wait_until(lambda: list((sweeping.trial(0) / "checkpoints").glob("step-*[0-9]/COMPLETE")))
    workers = [process.parent() for process in processes_of(sweeping.trial(0))]
    workers[0].kill()
    assert driver.wait(600) == 0, driver.output()
    assert "going on from" in (sweeping.trial(0) / "log.txt").read_text()
    assert steps_of(sweeping.trial(0)) == list(range(1, 1001))


@pytest.mark.full
def test_a_submitted_sweep_of_tensor_parallel_trials(sweeping, tmp_path):
    folder = tmp_path / "copied"
    folder.mkdir()
    common = [sys.executable, "-P", "-m", "launch", "sweep", "search=grid", f"data.path={sweeping.corpus}", *SMALL]
    common += ["search.space.optimizer.lr=grid(1e-3,1e-2)", "train.steps=30", "search.every=10"]
    common += ["search.ranks_per_trial=2", "parallel.tensor=2"]

    def submit(*more):
        return sweeping.cluster.job("submit", "--working-dir", str(folder), "--", *common, *more, timeout_s=900)

    refused = submit("search.dir=relative")
    assert refused.returncode != 0
    assert "search.dir=relative is relative, and this job stands in a copy" in refused.stdout
    done = submit(f"search.dir={sweeping.directory}")
    assert done.returncode == 0, done.stdout
    assert sweeping.states() == ["finished"] * 2
    for number in range(2):
        facts = json.loads((sweeping.trial(number) / "facts.json").read_text())
        assert facts["world_size"] == 2


@pytest.mark.full
def test_a_ladder_is_trained_fitted_and_compared_with_the_size_held_out(sweeping):
    output = sweeping.run(
        *("search=ladder", "search.ladder.widths=[16,32,48]", "search.ladder.tokens_per_parameter=[0.5,1,2]"),
        *("search.ladder.holdout=64", "search.ladder.resamples=20", "model.num_attention_heads=3"),
    )
    summary = json.loads((sweeping.directory / "results.json").read_text())["ladder"]
    assert len(summary["runs"]) == 9
    assert summary["holdout"]["loss"] > 0
    assert "held out" in output
    assert (sweeping.directory / "ladder.png").stat().st_size > 10_000

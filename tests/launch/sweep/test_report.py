"""What is left of a sweep: tables, pictures and the best configuration in its directory, and the same in W&B."""

import csv
import json
import subprocess
import sys

import pytest
import wandb

from launch.compose import compose
from launch.sweep.ladder import Rung
from launch.sweep.plan import SweepPlan
from launch.sweep.report import report_sweep
from launch.sweep.space import Distribution
from launch.sweep.trial import FINISHED, RUNNING, STOPPED, Trial, all_trials
from tests.track import wandb_server
from trainer.config import Search, Wandb
from trainer.planning.scaling_law import Law

SPACE = {
    "optimizer.lr": Distribution("loguniform", 1e-4, 1e-1),
    "optimizer.weight_decay": Distribution("choice", values=("0", "0.1")),
}
METRIC = "eval/validation/loss"


@pytest.fixture(autouse=True)
def own_wandb(monkeypatch, tmp_path):
    with wandb_server.own_wandb(monkeypatch, tmp_path):
        yield


@pytest.fixture
def plan(tmp_path):
    return SweepPlan(
        dir=str(tmp_path / "sweep"),
        name="first",
        overrides=("model=tiny", "train.steps=40"),
        config_dir=None,
        cwd=None,
        metric=METRIC,
        every=10,
        steps=40,
        ranks=1,
        threads=1,
        has_segments=False,
        reports_saved=False,
        identity={"seed": 0},
    )


def leave_trial(plan, number, values, losses, state):
    """A trial as its processes leave it."""
    trial = Trial.open(plan, number)
    trial.begin(values)
    rows = [{"step": step, "tokens": 100 * step, METRIC: loss} for step, loss in losses.items()]
    (trial.run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trial.write(state)


def wandb_records(folder):
    (run,) = (folder / "wandb").glob("offline-run-*")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder, timeout=120)
    return run, [json.loads(line) for line in done.stdout.splitlines()]


def test_a_sweep_leaves_tables_pictures_the_best_configuration_and_a_wandb_run(plan, capsys):
    for number in range(9):
        lr = f"{0.0002 * 2**number:.4g}"
        at_end = 3.0 + abs(number - 5) / 10
        losses = {10: at_end + 1} | ({40: at_end} if number > 2 else {})
        state = FINISHED if number > 2 else STOPPED
        leave_trial(plan, number, {"optimizer.lr": lr, "optimizer.weight_decay": "0.1"}, losses, state)
    report_sweep(plan, Search(), SPACE, [], all_trials(plan), Wandb(mode="offline"))
    wandb.teardown()

    printed, warned = capsys.readouterr()
    assert warned == ""
    assert "3 stopped, 6 finished" in printed
    assert "best       trial 00005: eval/validation/loss 3.0000 after 40 steps" in printed
    assert "importance optimizer.lr" in printed
    with (plan.folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == [STOPPED] * 3 + [FINISHED] * 6
    assert (rows[5]["optimizer.lr"], rows[5]["loss"], rows[5]["tokens"]) == ("0.0064", "3.0", "4000")
    assert (plan.folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    best = compose("pretrain", ["experiment=best"], plan.folder / "conf")
    assert (best.optimizer.lr, best.optimizer.weight_decay, best.train.steps) == (0.0064, 0.1, 40)

    folder, records = wandb_records(plan.folder)
    run = next(record["run"] for record in records if record["type"] == "run")
    assert (run["display_name"], run["run_group"]) == ("first", "first")
    logged = {key for record in records if record["type"] == "history" for key in record["history"]["item"]}
    assert any(key.startswith("sweep/sweep") for key in logged)
    assert any(key.startswith("sweep/trials") for key in logged)
    summary: dict = {}
    for record in records:
        summary |= record.get("summary", {}).get("update", {})
    assert (summary["best/trial"], summary["best/optimizer.lr"]) == (5, "0.0064")
    assert summary["importance/optimizer.lr"] > 0.5
    (table,) = (folder / "files/media/table/sweep").glob("trials*.json")
    shown = json.loads(table.read_text())
    assert shown["columns"][:5] == ["trial", "state", "step", "tokens", "loss"]
    assert [row[1] for row in shown["data"]] == [row["state"] for row in rows]
    assert list((folder / "files/media/images/sweep").glob("sweep*.png"))


def test_a_sweep_stopped_before_any_report_says_so(plan, capsys):
    leave_trial(plan, 0, {"optimizer.lr": "0.1", "optimizer.weight_decay": "0"}, {}, RUNNING)
    report_sweep(plan, Search(), SPACE, [], all_trials(plan), Wandb(mode="disabled"))
    assert "1 unfinished" in capsys.readouterr().out


def test_a_sweep_without_a_whole_trial_says_so(plan, capsys):
    leave_trial(plan, 0, {"optimizer.lr": "0.1", "optimizer.weight_decay": "0"}, {10: 4.0}, STOPPED)
    report_sweep(plan, Search(), SPACE, [], all_trials(plan), Wandb(mode="disabled"))
    printed = capsys.readouterr().out
    assert "1 stopped" in printed
    assert "best" not in printed
    assert json.loads((plan.folder / "results.json").read_text())["best"] is None


def test_a_ladder_is_compared_with_the_size_held_out(plan, capsys):
    """Losses of a known law: the prediction is what the held-out run has."""
    law = Law(e=1.5, a=80.0, b=300.0, alpha=0.3, beta=0.4)
    sizes = [(size, size * budget) for size in (100_000, 200_000, 400_000) for budget in (5, 10, 20)]
    rungs = [Rung(n, d, {"model.hidden_size": str(n)}) for n, d in sizes] + [Rung(10**6, 2 * 10**7, {}, True)]
    for number, rung in enumerate(rungs):
        leave_trial(plan, number, dict(rung.values), {40: law.loss(rung.parameters, rung.tokens)}, FINISHED)
    search = Search()
    search.ladder.resamples = 20
    report_sweep(plan, search, {}, rungs, all_trials(plan), Wandb(mode="disabled"))
    found = json.loads((plan.folder / "results.json").read_text())["ladder"]
    assert found["holdout"]["predicted"] == pytest.approx(law.loss(10**6, 2 * 10**7), rel=1e-3)
    assert abs(found["holdout"]["error"]) < 1e-3
    assert found["compute_optimal"]["parameters"] == pytest.approx(
        law.best_size(found["compute_optimal"]["flops"])[0], rel=0.05
    )
    assert "held out   1M parameters, 20M tokens" in capsys.readouterr().out
    assert (plan.folder / "ladder.png").read_bytes().startswith(b"\x89PNG")

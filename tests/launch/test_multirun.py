"""`--multirun`: comma lists become runs, in order; what can't be is refused before the first."""

import subprocess
import sys

import pytest

from launch.multirun import jobs_of, run_one
from trainer.errors import ConfigError


def test_lists_are_combined_and_text_is_left_alone():
    jobs = jobs_of(["optimizer.lr=1e-3,2e-3", "data.input=[a,b]", "model=tiny,moe_tiny", "evaluate.prompt=x,y"])
    assert [(job[0], job[2]) for job in jobs] == [
        ("optimizer.lr=0.001", "model=tiny"),
        ("optimizer.lr=0.001", "model=moe_tiny"),
        ("optimizer.lr=0.002", "model=tiny"),
        ("optimizer.lr=0.002", "model=moe_tiny"),
    ]
    assert {job[1] for job in jobs} == {"data.input=[a,b]"}
    assert {job[3] for job in jobs} == {"evaluate.prompt=x,y"}
    assert [job[0] for job in jobs_of(["seed=range(3)", "data.path=a b/(1)"])] == ["seed=0", "seed=1", "seed=2"]


def test_values_of_a_list_are_what_was_typed():
    assert jobs_of(["checkpoint.dir=s3://a/x,s3://b/y"]) == [["checkpoint.dir=s3://a/x"], ["checkpoint.dir=s3://b/y"]]
    jobs = jobs_of(["data.path=a b,'c,d'", "data.input=[a:b],[c]"])
    assert jobs[0] == ["data.path=a b", "data.input=[a\\:b]"]
    assert jobs[3] == ["data.path='c,d'", "data.input=[c]"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.lr=1e-3"], "no override has a list"),
        (["optimizer.lr=1e-3,2e-3", "run.name=one"], "every run needs its own; leave run.name out"),
    ],
)
def test_refusals(overrides, message):
    with pytest.raises(ConfigError, match=message):
        jobs_of(overrides)


def test_a_value_that_does_not_fit_is_refused_before_the_first_run(tmp_path):
    command = [sys.executable, "-P", "-m", "launch", "pretrain", "--multirun", "train.steps=3,x"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "banyan: train.steps=x: must be an integer or null.\n"


def test_the_first_run_that_fails_ends_it(corpus, tmp_path):
    overrides = [
        f"data.path={corpus}",
        "train.steps=1",
        "train.batch_size=4",
        "evaluate.every=0",
        "evaluate.prompt=null",
    ]
    overrides += ["model.hidden_size=16", "model.num_hidden_layers=1", "model.initializer_range=0.02,1e30,0.01"]
    overrides += ["data.sequence_length=16", "track.wandb.mode=disabled"]
    command = [sys.executable, "-P", "-m", "launch", "pretrain", "-m", *overrides]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert result.returncode == 3, result.stderr
    assert "run 2 of 3" in result.stdout
    assert "run 3 of 3" not in result.stdout
    finished = [path.parent for path in tmp_path.glob("runs/*/summary.txt")]
    assert len(finished) == 1


@pytest.mark.parametrize(("body", "code"), [("raise SystemExit(85)", 85), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_exit_codes(body, code):
    assert run_one([sys.executable, "-c", body]) == code

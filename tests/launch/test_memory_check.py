"""Every launcher refuses a run that its devices can't hold, before it takes one."""

import os
import subprocess
import sys

import pytest

HUGE = ("model=llama_8b", "model.vocab_size=128256", "data.path=data", "train.batch_size=64", "run.name=huge")


def banyan(*arguments):
    hidden = {"CUDA_VISIBLE_DEVICES": "", "PATH": "/nowhere", "RAY_ADDRESS": "127.0.0.1:1"}
    return subprocess.run(
        [sys.executable, "-m", "launch", "pretrain", *HUGE, *arguments],
        env=os.environ | hidden,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "launcher",
    [
        ("launch.processes=8",),
        ("launch=slurm", "launch.gpus_per_node=8", "launch.device=h100"),
        ("launch=ray", "launch.workers=8", "launch.device=h100"),
    ],
    ids=lambda keys: keys[0],
)
def test_a_run_that_cannot_fit_is_refused_in_a_line(launcher, tmp_path):
    done = banyan(*launcher, f"run.dir={tmp_path / 'run'}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    for words in ("each of 8 ranks needs", "GB (", "optimizer state", "launch.check_memory=false"):
        assert words in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_check_can_be_turned_off_and_refuses_nothing_unknown():
    slurm = ("launch=slurm", "launch.gpus_per_node=8", "launch.dry_run=true")
    assert banyan(*slurm).returncode == 0
    assert banyan(*slurm, "launch.device=h100", "launch.check_memory=false").returncode == 0
    assert banyan(*slurm, "launch.device=h100").returncode == 2


def test_a_device_that_is_not_in_the_table_is_named():
    done = banyan("launch=slurm", "launch.gpus_per_node=8", "launch.device=gpu9000")
    assert done.returncode == 2
    assert "launch.device=gpu9000: not known; choose one of" in done.stderr

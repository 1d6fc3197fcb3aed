"""The command as a user types it: two ranks, Ctrl-C, the same command again; and a rank that is killed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from trainer.checkpoint.folders import list_steps


def start(corpus, run_dir, *overrides):
    command = [
        *(sys.executable, "-m", "launch", "pretrain", f"data.path={corpus}", f"run.dir={run_dir}"),
        *("launch.processes=2", "parallel.zero_stage=2", "data.sequence_length=32", "train.batch_size=8"),
        *("model.hidden_size=48", "model.intermediate_size=96", "model.num_hidden_layers=2", "track.every=1"),
        *("evaluate.bigram=false", "evaluate.prompt=null", "evaluate.every=0", "track.wandb.mode=disabled"),
        *overrides,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_rows(run_dir, rows, process, timeout_s=120):
    deadline = time.monotonic() + timeout_s
    metrics = run_dir / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < rows:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="finds ranks in /proc")
def test_ctrl_c_and_a_killed_rank_and_the_same_command_again(corpus, tmp_path):
    run_dir = tmp_path / "run"
    process = start(corpus, run_dir, "train.steps=100000")
    wait_for_rows(run_dir, 3, process)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 85
    assert "stopped (signal) after step" in out
    (saved,) = list_steps(run_dir)

    process = start(corpus, run_dir, "train.steps=100000")
    wait_for_rows(run_dir, saved + 2, process)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    os.kill(int(children.stdout.split()[1]), signal.SIGKILL)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 128 + signal.SIGKILL
    assert "rank 1 was killed by SIGKILL" in errors

    process = start(corpus, run_dir, "train.steps=100000", f"train.stop_at={saved + 3}")
    process.communicate(timeout=240)
    assert process.returncode == 85
    steps = [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, saved + 4))
    assert json.loads((run_dir / "stopped.json").read_text())["reason"] == "step"


def test_refusal_by_every_rank_is_one_line(tmp_path):
    process = start(tmp_path / "nowhere", tmp_path / "run", "train.steps=3")
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 2
    lines = [line for line in errors.splitlines() if line.startswith("banyan: ")]
    assert len(lines) == 1
    assert "banyan prepare" in lines[0]

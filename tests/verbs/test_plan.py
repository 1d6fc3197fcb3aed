"""`banyan plan` as a user types it."""

import json
import os
import subprocess
import sys

import pytest

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR")
ONE_B = (
    *("model=llama_1b", "model.vocab_size=128256", "data.sequence_length=4096", "train.batch_size=1024"),
    *("train.precision=bf16", "train.compile=true", "train.tokens=1e11", "plan.device=h100"),
)
PROGRAM = "import sys; from launch.cli import main; code = main(); print(*sys.modules, file=sys.stderr); sys.exit(code)"


def banyan(*arguments):
    """Runs `banyan plan ARGUMENTS`; stderr ends in the names of the modules that it imported."""
    clean = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, "plan", *arguments], env=clean, capture_output=True, text=True, timeout=60
    )


def error_line(*arguments):
    done = banyan(*arguments)
    *lines, _modules = done.stderr.splitlines()
    assert (done.returncode, done.stdout, len(lines)) == (2, "", 1), done.stderr
    return lines[0]


def test_a_plan_tells_batch_memory_exchange_time_and_cost_without_torch(tmp_path):
    done = banyan(
        *ONE_B, "plan.devices=64", "parallel.zero_stage=1", "plan.price=2", f"plan.output={tmp_path / 'plan.json'}"
    )
    assert done.returncode == 0, done.stderr
    assert {"torch", "deepspeed", "transformers", "ray"}.isdisjoint(done.stderr.splitlines()[-1].split())
    assert "1,235.8M parameters, bf16, on 64 × H100 on 8 nodes" in done.stdout
    assert "1,024 sequences of 4,096 = 4,194,304 tokens a step: 64 data ranks, 2 micro-steps of 8" in done.stdout
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["parameters"] == 1_235_814_400
    assert plan["memory"]["parts"]["weights"] == 2 * 1_235_814_400
    assert plan["memory"]["total"] == sum(plan["memory"]["parts"].values()) + plan["memory"]["runtime"]
    time, run = plan["time"], plan["run"]
    assert run["tokens_per_second"] == pytest.approx(4_194_304 / time["total"])
    assert run["price"] == pytest.approx(run["days"] * 24 * 64 * 2)
    assert run["kilowatt_hours"] == pytest.approx(run["days"] * 24 * 64 * 0.7)


def test_the_best_layout_fits_and_is_the_fastest(tmp_path):
    output = tmp_path / "plan.json"
    done = banyan(*ONE_B, "plan.devices=8", "plan.best=true", f"plan.output={output}")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.strip()[:1].isdigit() and "zero_stage" in line]
    seconds = [float(row[1]) for row in rows]
    assert len(rows) == 5
    assert seconds == sorted(seconds)
    plan = json.loads(output.read_text())
    assert plan["memory"]["total"] < plan["cluster"]["device"]["memory"]
    assert plan["overrides"] in done.stdout


def test_scaling_begins_with_a_node_and_never_gains():
    done = banyan(*ONE_B, "plan.devices=1024", "parallel.zero_stage=1", "plan.scaling=strong")
    rows = [line.split() for line in done.stdout.splitlines() if "zero_stage" in line]
    assert [row[0] for row in rows] == ["8", "16", "32", "64", "128", "256", "512", "1,024"]
    efficiencies = [float(row[4].rstrip("%")) for row in rows]
    assert efficiencies[0] == 100
    assert all(one <= 100.5 for one in efficiencies)


def test_what_cannot_be_planned_is_refused_in_a_line():
    assert "plan.device=h1000: not known; choose one of b200" in error_line(*ONE_B, "plan.device=h1000")
    assert "set model.vocab_size, or data.path" in error_line("data.path=/nonexistent", "train.steps=1")
    assert "can't be cut into micro-batches" in error_line(*ONE_B, "plan.devices=7", "parallel.zero_stage=1")
    assert "plan.output=/nonexistent/plan.json: there is no folder" in error_line(
        *ONE_B, "plan.output=/nonexistent/plan.json"
    )
    assert "plan.devices=0: must be at least 1" in error_line(*ONE_B, "plan.devices=0")


def test_a_cluster_on_which_nothing_fits_is_told_so():
    done = banyan(*ONE_B, "plan.devices=1", "plan.best=true", "plan.memory=1e9")
    assert done.returncode == 2
    assert "no layout fits" in done.stdout

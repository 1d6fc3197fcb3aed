"""Every benchmark runs, for a few steps: Banyan and the bare loop, without the peers. Nothing is said about speed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import gpu, gpu_first
from tests.benchmarks.baseline import compare_figures, device_slug
from tests.benchmarks.bench import Figure
from tests.benchmarks.case import Case
from tests.benchmarks.contest import ROOT, Contestant, Measured, compete
from tests.benchmarks.contestants import products
from tests.benchmarks.report import contest_table, ratios, spread
from trainer.track.metrics import flops_per_token

TIMEOUT_S = 240


def run(benchmark: str, *arguments: object, code: int = 0, **variables: str) -> str:
    """What a benchmark printed."""
    command = [sys.executable, "-m", f"tests.benchmarks.{benchmark}", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""} | variables
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / f"{name}.json").read_text())


def test_cpu_contest_measures_every_turn_of_ours_and_the_bare_loop(tmp_path):
    arguments = ("--contest", "fp32", "--only", "zero 0", "bare", "products", "--output", tmp_path)
    table = run("cpu", "--tiny", "--rounds", 2, "--steps", 2, *arguments)
    results = read(tmp_path, "cpu-fp32")["results"]
    names = ["matrix products alone", "bare loop", "banyan, ZeRO 0"]
    assert [result["name"] for result in results] == names
    assert all(len(result["seconds"]) == 2 and result["failure"] is None for result in results)
    assert all(name in table for name in names)


def test_encryption_benchmark_measures_plain_and_encrypted():
    found = json.loads(run("encryption", "--tiny", "--rounds", 1))
    assert found.keys() == {"plain", "encrypted"}
    assert all(value > 0 for figures in found.values() for value in figures.values())


@pytest.mark.full
@pytest.mark.parametrize("disable", ["1", "0"], ids=["eager", "compiled"])
def test_gpu_contest_runs_on_a_cpu(tmp_path, disable):
    arguments = ("--case", "3B-2048", "--device", "cpu", "--tiny", "--output", tmp_path)
    run("gpu", *arguments, TORCHDYNAMO_DISABLE=disable)
    results = read(tmp_path, "gpu-3B-2048")["results"]
    ours = {result["name"]: result["failure"] for result in results if result["name"] != "torchtitan's model"}
    assert ours == dict.fromkeys(["matrix products alone", "bare loop", "banyan", "nanoGPT's way"])
    assert results[-1]["name"] == "torchtitan's model"  # installed by peers.sh, or said not to be
    assert results[-1]["failure"] in (None, "not installed: tests/benchmarks/peers.sh torchtitan")


@pytest.mark.full
def test_loss_benchmark_measures_ours_and_torch_s(tmp_path):
    table = run("loss", "--tiny", "--rounds", 2, "--output", tmp_path, TORCHDYNAMO_DISABLE="1")
    results = {result["name"]: result for result in read(tmp_path, "loss")["found"][0]["results"]}
    for name in ("all at once", "chunks of 32", "chunks of 32, compiled", "torch.linear_cross_entropy"):
        assert (len(results[name]["seconds"]), results[name]["failure"]) == (2, None)
        assert name in table


def test_a_slow_store_is_measured():
    found = json.loads(run("remote", "--tiny", "--nodes", 2))
    assert found["from the store"]["bytes"] >= found["from the store"]["bytes_of_rows"] > 0
    assert 0 <= found["from the folder"]["wait_share"] <= 1


@pytest.mark.full
def test_profiler_names_the_operators():
    assert "aten::mm" in run("profiler", "--tiny", "--steps", 2)


def test_gpu_contestants_take_turns_in_groups_that_the_memory_holds():
    entry = gpu.ENTRIES[0]
    chosen, each = gpu.contestants(entry), gpu.planned_bytes(entry.case)
    assert 10e9 < each < 25e9  # 124M, 32 rows of 1,024
    groups = gpu.admit(chosen, each, 0.9 * 80e9)
    assert all(len(group) * each < 0.9 * 80e9 + each for group in groups)  # the products alone take next to nothing
    assert all({gpu.FLOOR, gpu.BARE} < {one.name for one in group} for group in groups)
    assert {one.name for group in groups for one in group} == {one.name for one in chosen}
    assert [len(group) for group in gpu.admit(chosen, each, each)] == [3] * (len(chosen) - 2)
    assert gpu.admit(chosen, each, float("inf")) == [chosen]


@pytest.mark.full
def test_first_gpu_table_is_whole_on_a_cpu_with_two_ranks(tmp_path):
    checks = [check.name for check in gpu_first.CHECKS if check.name not in ("1B fp8", "fp8 head", "auto")]
    run("gpu_first", "--device", "cpu", "--tiny", "--ranks", 2, "--output", tmp_path, "--only", *checks)
    outcomes = {one["name"]: one for one in read(tmp_path, "gpu-first")["outcomes"]}
    assert {name: one["failure"] for name, one in outcomes.items()} == dict.fromkeys(checks)
    assert outcomes["stage 3"]["note"] == "0 breaks, 0 recompiled"
    table = (tmp_path / "gpu-first.md").read_text()
    assert table.count("\n| ") == len(checks) + 1


def test_first_gpu_table_tells_what_it_could_and_could_not_do(tmp_path):
    only = ("eager", "ranks, stage 1")
    run("gpu_first", "--device", "cpu", "--tiny", "--ranks", 1, "--output", tmp_path, "--only", *only)
    eager = read(tmp_path, "gpu-first")["outcomes"][0]
    assert (eager["failure"], len(eager["rows"])) == (None, 4)
    lines = (tmp_path / "gpu-first.md").read_text().splitlines()
    assert lines[0] == "## First run on cpu"
    assert "not run: needs 2 GPUs" in lines[-1]
    assert "no GPU here" in run("gpu_first", code=2)


@pytest.mark.full
def test_bench_prints_a_line_to_quote_and_is_its_own_baseline(tmp_path):
    said = run("bench", "--tiny", "--rounds", 2, "--steps", 1, "--output", tmp_path)
    assert re.search(r'"Banyan \S+ trains fp32 at [\d,]+ tokens/s, .* of a bare PyTorch loop', said)
    where = ("--found", tmp_path / "bench.json", "--baselines", tmp_path / "baselines")
    assert "no baseline for" in run("baseline", *where, code=2)
    assert "the baseline is now" in run("baseline", *where, "--accept")
    assert "worse" not in run("baseline", *where)


def test_a_figure_is_worse_beyond_both_spreads_and_what_is_allowed():
    base = {"speed": Figure(100.0, 2.0), "start": Figure(1.0, 0.1, "s", higher_is_better=False), "gone": Figure(1, 0)}
    found = {"speed": Figure(94.0, 2.0), "start": Figure(1.2, 0.2, "s", higher_is_better=False), "more": Figure(1, 0)}
    rows, worse = compare_figures(found, base, least=0.95)
    assert worse
    assert [row[-1] for row in rows] == ["worse", "", "missing", "new"]
    assert not compare_figures(base, base, least=0.95)[1]
    assert compare_figures({"speed": Figure(96.0, 0.1)}, {"speed": Figure(100.0, 0.1)}, least=0.95)[1] is False


def test_a_device_s_baseline_is_known_by_what_decides_its_speed():
    facts = {"device": "cpu", "processor": "AMD EPYC 9R14", "cores": 2, "instructions": "AVX2"}
    assert device_slug(facts) == "amd-epyc-9r14-2-cores-avx2"
    assert device_slug(facts | {"device": "NVIDIA H100 80GB HBM3"}) == "nvidia-h100-80gb-hbm3"


def test_gpu_contest_refuses_a_machine_without_one():
    assert run("gpu", code=2) == "bench-gpu: no GPU here; --device cpu --tiny shows that it runs.\n"


def test_data_benchmark_writes_what_it_prints(tmp_path):
    assert "WebDataset, a sample per row" in run("data", "--tiny", "--rounds", 1, "--batches", 4, "--output", tmp_path)
    assert 0 <= read(tmp_path, "data")["waiting_share"] < 1


@pytest.mark.full
def test_start_benchmark_writes_what_it_prints(tmp_path):
    assert "resume to the next step" in run("start", "--tiny", "--rounds", 1, "--saves", 0, "--output", tmp_path)
    assert set(read(tmp_path, "start")["starts"]) >= {"banyan --help", "to the first step", "resume to the next step"}


def test_checkpoint_benchmark_writes_what_it_prints(tmp_path):
    assert "the same shape" in run("checkpoint", "--tiny", "--ranks", 8, 16, "--rounds", 1, "--output", tmp_path)
    assert list(read(tmp_path, "checkpoint")["found"]) == ["8", "16"]


@pytest.mark.full
def test_saves_are_timed(tmp_path):
    run("start", "--tiny", "--rounds", 1, "--saves", 2, "--output", tmp_path)
    assert all(value > 0 for value in read(tmp_path, "start")["saves"].values())


@pytest.mark.full
def test_comparison_of_a_revision_with_itself(tmp_path):
    found = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True)
    if found.returncode:
        if os.environ.get("CI"):
            pytest.fail("no git checkout")
        pytest.skip("needs a git checkout of Banyan, and git")
    arguments = ("--tiny", "--rounds", 1, "--steps", 2, "--zero-stage", 0, "--output", tmp_path)
    assert "ratio" in run("compare", "HEAD", *arguments)
    assert "git knows no such revision" in run("compare", "nonsense", *arguments, code=1)


def test_contestant_that_fails_or_is_missing_is_named(tmp_path):
    broken = Contestant("broken", "nowhere")
    missing = Contestant("missing", "huggingface", peer="no-such-peer")
    results = compete([broken, missing], Case("none").shrunk(), tmp_path, rounds=1, steps=1, timeout_s=60)
    table = contest_table(Case("none"), results, base="broken", floor="broken")
    assert "No module named" in results[0].failure
    assert "missing: not installed: tests/benchmarks/peers.sh no-such-peer" in table


def test_ratios_are_of_the_same_round():
    slow, fast = Measured("slow", [2.0, 4.0]), Measured("fast", [1.0, 2.0])
    assert ratios(fast, slow) == [2.0, 2.0]
    assert spread([1.0, 1.0, 1.0]) == 0.0


def test_floor_multiplies_what_the_model_does():
    case = Case("floor")
    layer = 2 * case.hidden_size * (case.hidden_size + 128) + 3 * case.hidden_size * case.intermediate_size
    matrices = case.num_hidden_layers * layer + case.hidden_size * case.vocab_size
    per_token = flops_per_token(
        parameters=matrices,
        layers=case.num_hidden_layers,
        heads=case.num_attention_heads,
        head_dim=case.head_dim,
        sequence_length=case.sequence_length,
    )
    assert products.flops(case) == pytest.approx(per_token * case.tokens)
    computed = sum(2 * a.shape[0] * a.shape[1] * a.shape[2] * b.shape[2] for a, b in products.operands(case.shrunk()))
    assert computed == products.flops(case.shrunk())


def test_what_watching_costs_is_measured_turn_by_turn(tmp_path):
    table = run("watching", "--tiny", "--rounds", 2, "--steps", 2, "--output", tmp_path)
    names = ["all off", "defaults", "health off", "all off again"]
    for what in ("time", "processor time"):
        speeds = ", ".join(f"{name} [0-9,]+" for name in names)
        ratios = "".join(rf"  {name} / all off [0-9.]+ ± [0-9.]+ of 2 rounds\n" for name in names[1:])
        assert re.search(f"^{what}: {speeds}\n{ratios}", table, re.M)
    found = read(tmp_path, "watching")
    assert {name: len(turns) for name, turns in found["turns"].items()} == dict.fromkeys(names, 2)
    account = found["account"]
    assert 0 < sum(ms for part, ms in account.items() if part != "a step") < account["a step"]
    rows = {"metrics.jsonl", "console and log", "W&B, a row", "the rest of a row", "rule of spikes"}
    assert account.keys() >= rows | {
        "sections of a step",
        "comparison of ranks",
        "losses by row",
        "beats",
        "wandb-core",
    }

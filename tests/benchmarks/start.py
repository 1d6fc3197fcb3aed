"""`make bench-start`: how long it takes to the first step, to go on from a checkpoint, and to save one.

python -m tests.benchmarks.start [--rounds 5] [--stage 1] [--tiny]

The yardstick is a bare script that imports torch and DeepSpeed and does nothing; beside it one that takes a step of
AdamW, for which torch imports its compiler. All caches are warm.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks import report
from tests.benchmarks.case import Case
from tests.benchmarks.contest import ROOT
from tests.benchmarks.tokens import write_tokens

BARE = "import torch, deepspeed"
BARE_STEP = f"""{BARE}
layer = torch.nn.Linear(8, 8)
optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
layer(torch.ones(8)).sum().backward()
optimizer.step()"""
TIMEOUT_S = 180.0
SAVED = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "vocab_size": 8192}
"""The model whose checkpoints are timed: 31M parameters, 0.38 GB of state."""


class StartError(Exception):
    """A run that didn't get to its step."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints two tables, writes JSON."""
    parser = argparse.ArgumentParser(
        prog="bench-start", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stage", type=int, default=0, choices=range(4), help="of ZeRO, of the starts")
    parser.add_argument("--saves", type=int, default=4, help="checkpoints that are timed; 0: none")
    parser.add_argument("--tiny", action="store_true", help="the smallest models, to see that it runs")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks")
    options = parser.parse_args(arguments)
    facts = report.machine()
    with tempfile.TemporaryDirectory(prefix="bench-start-") as name:
        folder = Path(name)
        case = Case("start").shrunk() if options.tiny else Case("start")
        write_tokens(folder, vocab_size=case.vocab_size, tokens=1 << 18)
        starts = measure_starts(folder, case, options.stage, options.rounds, warm_up=not options.tiny)
        saves = measure_saves(folder, options.saves, tiny=options.tiny) if options.saves else {}
    base = starts["bare imports"]
    rows = []
    for what, seconds in starts.items():
        more = [one - other for one, other in zip(seconds, base, strict=True)]
        median = f"{statistics.median(seconds):.2f} ± {report.spread(seconds):.2f}"
        rows.append([what, median, f"{statistics.median(more):+.2f} ± {report.spread(more):.2f}"])
    print(f"\nstart: {options.rounds} rounds")
    print(report.machine_line(facts))
    print(report.show(["", "seconds", "beyond the bare imports"], rows))
    if saves:
        print(report.show(["checkpoints", ""], [[what, f"{value:.3f}"] for what, value in saves.items()]), flush=True)
    report.write(options.output / "start.json", {"machine": facts, "starts": starts, "saves": saves})
    return 0


def measure_starts(folder: Path, case: Case, stage: int, rounds: int, *, warm_up: bool) -> dict[str, list[float]]:
    """Seconds of each kind of start, in turns; with `warm_up` after a round that isn't counted."""
    command = [*_pretrain(folder, case), f"parallel.zero_stage={stage}"]
    seconds: dict[str, list[float]] = {}
    for number in range(0 if warm_up else 1, rounds + 1):
        run_dir = folder / f"run-{number}"
        kinds: dict[str, Callable[[], float]] = {
            "bare imports": lambda: _time([sys.executable, "-c", BARE]),
            "bare imports and a step": lambda: _time([sys.executable, "-c", BARE_STEP]),
            "banyan --help": lambda: _time([*_BANYAN, "--help"]),
            "to the first step": lambda run_dir=run_dir: _to_step(
                [*command, f"run.dir={run_dir}", "train.stop_at=1"], run_dir, 1, code=85
            ),
            "resume to the next step": lambda run_dir=run_dir: _to_step(
                [*command, f"run.dir={run_dir}"], run_dir, 2, code=0
            ),
        }
        for kind, measure in kinds.items():
            taken = measure()
            if number > 0:
                seconds.setdefault(kind, []).append(taken)
    return seconds


_BANYAN = [sys.executable, "-P", "-m", "launch"]


def _environment() -> dict[str, str]:
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    return os.environ | own | ({} if Path("/dev/nvidiactl").exists() else {"DS_ACCELERATOR": "cpu"})


def _pretrain(folder: Path, case: Case) -> list[str]:
    """The command of a run of two steps."""
    shape = [f"model.{name}={value}" for name, value in case.model_settings().items()]
    settings = [f"data.path={folder / 'shards'}", f"data.sequence_length={case.sequence_length}", "evaluate.every=0"]
    settings += [f"train.batch_size={case.rows}", "train.steps=2", "checkpoint.every=0", "track.every=1"]
    return [*_BANYAN, "pretrain", "data=custom", *shape, *(str(text).replace("=True", "=true") for text in settings)]


def _time(command: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def _to_step(command: Sequence[str], run_dir: Path, step: int, *, code: int) -> float:
    """Seconds until the run has logged `step`; then it is left to end by itself."""
    log = run_dir.with_suffix(".log")
    with log.open("w") as output:
        began = time.perf_counter()
        process = subprocess.Popen(command, env=_environment(), stdout=output, stderr=subprocess.STDOUT)
        try:
            while step not in _logged(run_dir):
                if process.poll() is not None or time.perf_counter() - began > TIMEOUT_S:
                    raise StartError(f"no step {step}: {log.read_text()[-500:]}")
                time.sleep(0.005)
            seconds = time.perf_counter() - began
            if process.wait(TIMEOUT_S) != code:
                raise StartError(log.read_text()[-500:])
        finally:
            process.kill()
    return seconds


def _rows(run_dir: Path) -> list[dict[str, Any]]:
    try:
        lines = (run_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
    except OSError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _logged(run_dir: Path) -> set[int]:
    return {row["step"] for row in _rows(run_dir)}


def measure_saves(folder: Path, saves: int, *, tiny: bool) -> dict[str, float]:
    """Seconds that training stands still for a checkpoint, and that one copy of its state in host memory takes."""
    import torch

    case = Case("saves", rows=1, sequence_length=64)
    settings = {**case.model_settings(), **({} if tiny else SAVED), "vocab_size": case.vocab_size}
    every, run_dir = 4, folder / "run-saves"
    shape = [f"model.{name}={str(value).lower()}" for name, value in settings.items()]
    command = [*_BANYAN, "pretrain", "data=custom", *shape, f"data.path={folder / 'shards'}", "evaluate.every=0"]
    command += [
        f"data.sequence_length={case.sequence_length}",
        "train.batch_size=1",
        f"train.steps={every * saves + 1}",
    ]
    command += [f"checkpoint.every={every}", "track.every=1", f"run.dir={run_dir}"]
    subprocess.run(command, env=_environment(), stdout=subprocess.DEVNULL, check=True, timeout=TIMEOUT_S)
    rows = _rows(run_dir)
    stalls = [row["perf/checkpoint_stall_seconds"] for row in rows if "perf/checkpoint_stall_seconds" in row]
    parameters = json.loads((run_dir / "facts.json").read_text())["parameters"]
    torch.set_num_threads(1)
    state = [torch.zeros(parameters) for _ in range(3)]
    copies = []
    for _ in range(saves):
        began = time.perf_counter()
        held = [tensor.clone() for tensor in state]
        copies.append(time.perf_counter() - began)
        del held
    return {
        "state, GB": 12 * parameters / 1e9,
        "step, seconds": statistics.median(row["perf/step_seconds"] for row in rows[1:]),
        "one host copy of the state, seconds": statistics.median(copies),
        "first save's stall, seconds": stalls[0],
        f"stall of one every {every} steps, seconds": statistics.median(stalls[1:]) if len(stalls) > 1 else stalls[0],
    }


if __name__ == "__main__":
    sys.exit(main())

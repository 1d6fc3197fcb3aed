"""`make gpu-first`: what to run first on a GPU, in the order of what it would change; ten minutes, no network.

python -m tests.benchmarks.gpu_first [--only NAME …] [--minutes 10] [--device cpu --tiny]

Each line is a run of `banyan pretrain` on random tokens, or a check, in a process of its own; one that fails says why,
and the others go on. With two GPUs or more the lines about ranks are run on all of them, over NCCL. Prints a table in
Markdown and writes it, with every logged step as JSON, to build/benchmarks/.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks import report
from tests.benchmarks.case import Case
from tests.benchmarks.contest import ROOT
from tests.benchmarks.gpu import GPT2, LLAMA_1B
from tests.benchmarks.tokens import write_tokens

STEPS, EVERY = 60, 20  # of a run: the first twenty compile and warm up


@dataclass(frozen=True)
class Check:
    """A line of the table: a run of a case with `overrides`, or a `command`; `expected` is what was reckoned before.

    A run with `on_all` takes every GPU, and is left out where there is one; its batch is of so many ranks.
    """

    name: str
    why: str
    case: Case = GPT2
    overrides: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    steps: int = STEPS
    on_all: bool = False
    expected: str = ""


BREAKS = {"TORCH_LOGS": "graph_breaks,recompiles"}
CHECKS = (
    Check("ready", "driver, NCCL, gcc for Triton", command=("-m", "trainer.ranks.warm_up")),
    Check("defaults", "what a user gets: compiled, products merged", expected="430k tokens/s, MFU 34–41 %"),
    Check("eager", "what compiling is worth", overrides=("train.compile=false",), expected="235k, 20 %"),
    Check("apart", "what merged products are worth", overrides=("train.merge_products=false",), expected="−3 %"),
    Check("chunk 2,048", "what larger chunks of the loss are worth", overrides=("model.loss_chunk=2048",)),
    Check("one chunk", "whether they should be larger still", overrides=("model.loss_chunk=32768",)),
    Check("fp8 head", "two of its three products in float8", overrides=("train.fp8_head=true",), expected="+5 %"),
    Check("stage 1", "bf16 weights on one GPU", overrides=("parallel.zero_stage=1",), expected="behind stage 0"),
    Check("stage 2", "the same", overrides=("parallel.zero_stage=2",)),
    Check("no cuDNN", "which attention is best", variables={"TORCH_CUDNN_SDPA_DEPRIORITIZED": "1"}),
    Check("documents", "FlexAttention forward and backward", overrides=("data.mask_documents=true",)),
    Check(
        "stage 3", "graphs and breaks of leaf blocks", variables=BREAKS, steps=8,
        overrides=("parallel.zero_stage=3", "train.compile=true"),
        expected="no break",
    ),
    Check("recompiled", "full recomputation", overrides=("train.activation_checkpointing=full",), steps=20),
    Check("muon", "Newton-Schulz in fp16", overrides=("optimizer=muon",)),
    Check("1B", "the model that matters", case=LLAMA_1B, steps=30, expected="59k, 45–51 %"),
    Check(
        "1B fp8", "float8 products", case=LLAMA_1B, steps=30,
        overrides=("train.precision=fp8", "parallel.zero_stage=1"),
    ),
    Check(
        "auto", "what the measured micro-batch is, and that one too large is survived",
        overrides=("train.micro_batch_size=auto", "train.batch_size=64"), steps=20,
    ),
    Check("loss", "head and loss alone", command=("-m", "tests.benchmarks.loss", "--rounds", "3")),
    Check("ranks, stage 0", "gradients averaged beside backward", on_all=True),
    Check("ranks, stage 1", "the same by DeepSpeed", overrides=("parallel.zero_stage=1",), on_all=True),
    Check("ranks, stage 2", "gradients cut", overrides=("parallel.zero_stage=2",), on_all=True),
    Check("ranks, stage 3", "weights cut, blocks as leaves", overrides=("parallel.zero_stage=3",), on_all=True),
    Check("ranks, tensor 2", "products cut in two", overrides=("parallel.tensor=2",), on_all=True),
    Check("ranks, sequence 2", "rows cut in two", overrides=("parallel.sequence=2",), on_all=True),
    Check(
        "ranks, 1B stage 3", "what a larger model has of it", case=LLAMA_1B, steps=30,
        overrides=("parallel.zero_stage=3",), on_all=True,
    ),
)  # fmt: skip


@dataclass
class Outcome:
    """What became of a check; the medians are of the logged steps but the first two."""

    name: str
    why: str
    seconds: float = 0.0
    tokens_per_second: float | None = None
    mfu: float | None = None
    memory_bytes: int | None = None
    loss: float | None = None
    note: str = ""
    failure: str | None = None
    expected: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the checks that were named, by default all, while there is time; 1 if one failed."""
    parser = argparse.ArgumentParser(
        prog="gpu-first", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [check.name for check in CHECKS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"by default all: {', '.join(names)}")
    parser.add_argument(
        "--minutes", type=float, help="for all together, by default 10, on several GPUs 16; what is left isn't begun"
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--ranks", type=int, help="of the lines about ranks; by default the GPUs here")
    parser.add_argument("--tiny", action="store_true", help="models of milliseconds, to see that it runs")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks")
    options = parser.parse_args(arguments)
    import torch

    gpus = torch.cuda.device_count()
    if options.device == "cuda" and gpus == 0:
        print("gpu-first: no GPU here; --device cpu --tiny shows that it runs.", file=sys.stderr)
        return 2
    ranks = options.ranks or max(1, gpus)
    facts = report.machine()
    deadline = time.monotonic() + 60 * (options.minutes or (10 if ranks == 1 else 16))
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="gpu-first-") as folder:
        for check in CHECKS:
            if options.only and check.name not in options.only:
                continue
            outcomes.append(carry_out(check, Path(folder), options, ranks, deadline))
            print(f"{check.name}: {outcomes[-1].failure or told(outcomes[-1])}", flush=True)
    text = "\n".join([f"## First run on {facts['device']}", "", report.machine_line(facts), "", table(outcomes), ""])
    print(f"\n{text}", flush=True)
    report.write(options.output / "gpu-first.json", {"machine": facts, "ranks": ranks, "outcomes": outcomes})
    (options.output / "gpu-first.md").write_text(text, encoding="utf-8")
    return 1 if any(outcome.failure and "not run" not in outcome.failure for outcome in outcomes) else 0


def carry_out(check: Check, folder: Path, options: argparse.Namespace, ranks: int, deadline: float) -> Outcome:
    """Runs a check in a process of its own."""
    outcome = Outcome(check.name, check.why, expected=check.expected)
    left = deadline - time.monotonic()
    if left < 5:
        outcome.failure = "not run: out of time"
    elif check.on_all and ranks < 2:
        outcome.failure = "not run: needs 2 GPUs"
    if outcome.failure:
        return outcome
    case = dataclasses.replace(check.case, device=options.device)
    case = case.shrunk() if options.tiny else case
    run_dir = folder / re.sub(r"\W+", "-", check.name)
    command = [sys.executable, "-P", *(check.command or training(check, case, folder, run_dir, ranks, options.tiny))]
    if options.tiny and check.name == "loss":
        command += ["--tiny"]
    began = time.monotonic()
    log = run_dir.with_suffix(".log")
    with log.open("w") as output:
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=os.environ | variables(check, options.device),
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=left,
            )
        except subprocess.TimeoutExpired:
            outcome.seconds, outcome.failure = time.monotonic() - began, "ended: out of time"
            return outcome
    outcome.seconds = time.monotonic() - began
    said = log.read_text(encoding="utf-8", errors="replace")
    if done.returncode:
        words = [line for line in said.splitlines() if line.strip()]
        outcome.failure = f"exit code {done.returncode}: {words[-1][:200] if words else 'without a word'}"
        return outcome
    if check.variables == BREAKS:
        breaks, recompiled = (len(re.findall(pattern, said)) for pattern in ("Graph break in", "Recompiling function"))
        outcome.note = f"{breaks} breaks, {recompiled} recompiled"
    if not check.command:
        read_run(outcome, run_dir)
    return outcome


def training(check: Check, case: Case, folder: Path, run_dir: Path, ranks: int, tiny: bool) -> list[str]:
    """The arguments of a run, whose tokens are written where they aren't yet."""
    data = folder / f"tokens-{case.vocab_size}"
    if not data.exists():
        write_tokens(data, vocab_size=min(case.vocab_size, 1 << 16), tokens=max(1 << 18, 64 * case.tokens))
    steps, every = (4, 1) if tiny else (check.steps, min(EVERY, check.steps // 4))
    count = ranks if check.on_all else 1
    shape = [f"model.{name}={str(value).lower()}" for name, value in case.model_settings().items()]
    return [
        *("-m", "launch", "pretrain", "data=custom", "model=tiny", *shape, f"data.path={data / 'shards'}"),
        *(f"data.sequence_length={case.sequence_length}", f"run.dir={run_dir}", f"launch.processes={count}"),
        *(f"train.batch_size={case.rows * count}", f"train.micro_batch_size={case.rows}", f"train.steps={steps}"),
        *(f"train.precision={'fp32' if case.device == 'cpu' else case.precision}", f"track.every={every}"),
        *("track.wandb.mode=disabled", "checkpoint.every=0", "evaluate.every=0", *check.overrides),
    ]


def variables(check: Check, device: str) -> dict[str, str]:
    """Of a check's process."""
    ours = {"PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled"} | check.variables
    return ours | ({"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"} if device == "cpu" else {})


def read_run(outcome: Outcome, run_dir: Path) -> None:
    """Takes speed, memory and loss from a run's metrics."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    outcome.rows = [row for row in map(json.loads, lines) if "train/loss" in row]
    warm = outcome.rows[2:] or outcome.rows
    outcome.tokens_per_second = statistics.median(row["perf/tokens_per_second"] for row in warm)
    outcome.mfu = statistics.median(row["perf/mfu"] for row in warm) if "perf/mfu" in warm[0] else None
    outcome.memory_bytes = max(row["perf/memory_bytes"] for row in warm)
    outcome.loss = outcome.rows[-1]["train/loss"]
    if (run_dir / "micro_batch.json").exists():
        chosen = json.loads((run_dir / "micro_batch.json").read_text(encoding="utf-8"))
        outcome.note = f"micro-batch {chosen['micro_batch_size']}"


def told(outcome: Outcome) -> str:
    """An outcome in a few words."""
    speed = "done" if outcome.tokens_per_second is None else f"{outcome.tokens_per_second:,.0f} tokens/s"
    return f"{speed} {outcome.note}".strip()


def table(outcomes: Sequence[Outcome]) -> str:
    """The table in Markdown; what failed stands below, with its last words."""
    rows, failures = [], []
    for one in outcomes:
        if one.failure:
            failures.append(f"- {one.name}: {one.failure}")
        speed = "" if one.tokens_per_second is None else f"{one.tokens_per_second:,.0f}"
        memory = "" if one.memory_bytes is None else f"{one.memory_bytes / 1e9:.1f}"
        loss, share = ("" if value is None else value for value in (one.loss, one.mfu))
        cells = [f"{share:.1%}" if share else "", memory, f"{loss:.4f}" if loss else ""]
        state = "failed" if one.failure else one.note or "done"
        if one.failure and one.failure.startswith("not run"):
            state = one.failure
        rows.append([one.name, one.why, speed, *cells, f"{one.seconds:.0f}", state, one.expected])
    head = ["", "what it tells", "tokens/s", "MFU", "GB", "last loss", "s", "", "expected"]
    return "\n".join([report.show(head, rows), *([""] if failures else []), *failures])


if __name__ == "__main__":
    sys.exit(main())

"""Nats on the validation set at equal processor time, by optimiser, batch and schedule: which recipe learns fastest.

python -m tests.benchmarks.time_to_loss DATA [--seconds 150] [--only NAME …] [--seeds 1]

DATA is a prepared folder, such as data/stdlib. Each choice is `banyan pretrain` of the demonstration's model with one
thread, for as many steps as `--seconds` of processor time pay for: a short run before it says what one costs. Processor
time, since two runs at a time, and others on the machine, would have equal wall time mean unequal work. A table, best
first, and JSON in build/benchmarks/.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks import report
from tests.benchmarks.contest import ROOT

PILOT = 24  # steps of the runs that say what a step costs
WARM_UP = 0.04  # share of the steps


@dataclass(frozen=True)
class Choice:
    """What is tried: overrides, laid over the demonstration's own configuration."""

    name: str
    overrides: tuple[str, ...] = ()


def adamw(rate: str, rows: int, *more: str) -> Choice:
    """AdamW at a peak rate, with so many rows a step."""
    return Choice(
        " ".join(["adamw", rate, f"{rows} rows", *more]), (f"optimizer.lr={rate}", f"train.batch_size={rows}", *more)
    )


def muon(rate: str, muon_rate: str, rows: int, *more: str) -> Choice:
    """Muon at a peak rate, with AdamW's for what isn't a block's matrix."""
    own = ("optimizer=muon", f"optimizer.muon_lr={muon_rate}", f"optimizer.lr={rate}", f"train.batch_size={rows}")
    return Choice(" ".join(["muon", muon_rate, rate, f"{rows} rows", *more]), (*own, *more))


CHOICES = (
    adamw("2e-3", 4),
    adamw("1e-3", 4),
    adamw("4e-3", 4),
    adamw("1.5e-3", 2),
    adamw("3e-3", 8),
    adamw("2e-3", 4, "schedule=linear"),
    adamw("2e-3", 4, "schedule=wsd", "schedule.decay_fraction=0.4"),
    adamw("2e-3", 4, "optimizer.beta2=0.99"),
    muon("2e-3", "0.02", 4),
    muon("2e-3", "0.01", 4),
    muon("4e-3", "0.02", 8),
    muon("2e-3", "0.02", 8),
    muon("2e-3", "0.02", 4, "schedule=linear"),
    muon("2e-3", "0.02", 4, "schedule=wsd", "schedule.decay_fraction=0.4"),
)


@dataclass
class Course:
    """How a choice went: steps, processor seconds of training, nats on the validation set, one of each per seed."""

    name: str
    tokens: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)
    failure: str | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the choices, by default all; 1 if one failed."""
    parser = argparse.ArgumentParser(
        prog="time-to-loss", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [choice.name for choice in CHOICES]
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"by default all: {'; '.join(names)}")
    parser.add_argument("--seconds", type=float, default=150.0, help="of a processor, for the steps of a run")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16 where it is native")
    parser.add_argument("--tiny", action="store_true", help="a model of milliseconds, to see that it runs")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks")
    options = parser.parse_args(arguments)
    chosen = [choice for choice in CHOICES if not options.only or choice.name in options.only]
    facts = report.machine()
    with tempfile.TemporaryDirectory(prefix="time-to-loss-") as folder:
        pilots = Pilots(Path(folder) / "pilots", options)
        courses = [follow(choice, Path(folder) / str(i), options, pilots) for i, choice in enumerate(chosen)]
    asked = {"data": options.data.name, "precision": options.precision, "seconds": options.seconds}
    print(f"\n{', '.join(f'{name} {value}' for name, value in asked.items())}, {options.seeds} seed(s)")
    print(report.machine_line(facts))
    print(table(courses), flush=True)
    found = {"machine": facts, **asked, "courses": courses}
    report.write(options.output / f"time-to-loss-{options.data.name}.json", found)
    return 1 if any(course.failure for course in courses) else 0


class Pilots:
    """Short runs, which say what a start and a step cost; a step's is the same for all rates and schedules."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self._folder, self._options = folder, options
        self._costs: dict[tuple[str, ...], float] = {}
        self.start = train(Choice("start"), folder / "start", options, steps=2)[0]

    def step(self, choice: Choice) -> float:
        """Processor seconds of one of its steps."""
        key = tuple(text for text in choice.overrides if text.startswith(("optimizer=", "train.batch_size")))
        if key not in self._costs:
            spent, _ = train(choice, self._folder / str(len(self._costs)), self._options, steps=PILOT)
            self._costs[key] = max((spent - self.start) / (PILOT - 2), 1e-3)
        return self._costs[key]


def follow(choice: Choice, folder: Path, options: argparse.Namespace, pilots: Pilots) -> Course:
    """A choice's runs, one for each seed."""
    course = Course(choice.name)
    try:
        steps = max(PILOT, round(options.seconds / pilots.step(choice)))
        for seed in range(1, options.seeds + 1):
            spent, run_dir = train(choice, folder / f"seed-{seed}", options, steps=steps, seed=seed, judge=True)
            last = [row for row in read(run_dir / "metrics.jsonl") if "eval/validation/loss" in row][-1]
            course.nats.append(last["eval/validation/loss"])
            course.tokens.append(last["tokens"])
            course.seconds.append(spent - pilots.start)
    except RuntimeError as error:
        course.failure = str(error)
    print(f"{choice.name}: {course.failure or course.nats}", flush=True)
    return course


def train(
    choice: Choice, run_dir: Path, options: argparse.Namespace, *, steps: int, seed: int = 1, judge: bool = False
) -> tuple[float, Path]:
    """Processor seconds of a run, and its folder. RuntimeError with its last words."""
    shape = ("model.hidden_size=32", "model.intermediate_size=32", "model.num_hidden_layers=1") if options.tiny else ()
    command = [
        *(sys.executable, "-P", "-m", "launch", "pretrain", f"data.path={options.data.resolve()}"),
        *(f"run.dir={run_dir}", "launch.processes=1", f"train.steps={steps}", f"seed={seed}", *shape),
        *(f"schedule.warmup_steps={round(WARM_UP * steps)}", f"track.every={max(1, steps // 20)}"),
        *(
            "checkpoint.every=0",
            f"evaluate.every={steps if judge else 0}",
            "evaluate.rows=128",
            "track.wandb.mode=disabled",
        ),
        *("train.compile=false", f"train.precision={options.precision}", *choice.overrides),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    with run_dir.with_suffix(".log").open("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=run_dir.parent)
        _, status, usage = os.wait4(process.pid, 0)  # with its own children's
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(([*log.read().splitlines(), "without a word"])[-1][:200])
    return usage.ru_utime + usage.ru_stime, run_dir


def read(metrics: Path) -> list[dict[str, float]]:
    """The rows of a run."""
    return [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]


def table(courses: Sequence[Course]) -> str:
    """Best first; what failed stands below."""
    done = sorted((one for one in courses if one.nats), key=lambda one: statistics.mean(one.nats))
    rows = []
    for one in done:
        spread = f" ± {statistics.stdev(one.nats):.3f}" if len(one.nats) > 1 else ""
        seconds, tokens = statistics.mean(one.seconds), statistics.mean(one.tokens)
        cells = [f"{statistics.mean(one.nats):.3f}{spread}", f"{tokens / 1e3:,.0f}", f"{seconds:.0f}"]
        rows.append([one.name, *cells, f"{tokens / seconds:,.0f}"])
    failures = [f"{one.name}: {one.failure}" for one in courses if one.failure]
    head = ["", "nats", "thousand tokens", "processor s", "tokens a processor s"]
    return "\n".join([report.show(head, rows), *failures])


if __name__ == "__main__":
    sys.exit(main())

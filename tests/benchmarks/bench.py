"""`make bench`: the few figures that say how fast Banyan is here, in ten minutes, without peers or a network.

python -m tests.benchmarks.bench [--rounds 6] [--tiny]

Training against a bare loop of the same model and against the matrix products alone (on a GPU 124M, else the
demonstration's model), the loader against a memory map, and the seconds to a run's first step. A table, a line to
quote, and JSON in build/benchmarks/, which `make bench-compare` holds against the baseline of the same device.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks import data, report, start
from tests.benchmarks.case import Case
from tests.benchmarks.contest import ROOT, Contestant, Measured, compete
from tests.benchmarks.cpu import BARE, CASES, FLOOR
from tests.benchmarks.gpu import GPT2
from tests.benchmarks.tokens import write_tokens

FILE = "bench.json"
BATCHES = 200  # that the loader is timed over


@dataclass(frozen=True)
class Figure:
    """Something measured: a median, and half the distance between the quartiles."""

    value: float
    spread: float
    unit: str = ""
    higher_is_better: bool = True

    def in_words(self) -> str:
        """As 1.023 ± 0.037, or 2,432 ± 124 tokens/s."""
        digits = 0 if abs(self.value) >= 100 else 3
        return f"{self.value:,.{digits}f} ± {self.spread:,.{digits}f} {self.unit}".strip()


Figures = dict[str, Figure]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, writes; 1 if Banyan failed somewhere."""
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=4, help="of a turn")
    parser.add_argument("--tiny", action="store_true", help="models of milliseconds, to see that it runs")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks")
    options = parser.parse_args(arguments)
    facts = report.machine()
    figures: Figures = {}
    failures = []
    for case in cases(facts["device"]):
        found, failed = train(case.shrunk() if options.tiny else case, options)
        figures |= found
        failures += failed
    figures |= load(options) | begin(options)
    print(f"\n{report.machine_line(facts)}")
    print(report.show(["", "median"], [[name, figure.in_words()] for name, figure in figures.items()]))
    for line in failures:
        print(line)
    print(f"\n{quote(figures, facts)}", flush=True)
    record = {name: asdict(figure) for name, figure in figures.items()}
    report.write(options.output / FILE, {"machine": facts, "revision": revision(), "figures": record})
    return 1 if failures else 0


def cases(device: str) -> list[Case]:
    """What is trained: on a GPU 124M, in bf16 and compiled; on a CPU the demonstration's model, by one rank and two."""
    if device != "cpu":
        return [GPT2]
    return [case for case in CASES if case.name in ("fp32", "fp32-2-ranks")]


def train(case: Case, options: argparse.Namespace) -> tuple[Figures, list[str]]:
    """Speeds of a contest without peers, and what failed of it."""
    stages = [Contestant(f"ZeRO {stage}", "banyan", {"parallel.zero_stage": str(stage)}) for stage in (0, 1)]
    chosen = [Contestant(FLOOR, "products"), Contestant(BARE, "bare"), *stages]
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        write_tokens(folder, vocab_size=case.vocab_size, tokens=max(1 << 18, 64 * case.tokens))
        results = {one.name: one for one in compete(chosen, case, folder, rounds=options.rounds, steps=options.steps)}
    figures: Figures = {}
    for stage in stages:
        ours = results[stage.name]
        if ours.failure is None:
            prefix = f"{case.name}, {stage.name}"
            figures[f"{prefix}: tokens/s"] = _figure([case.tokens / each for each in ours.seconds], "tokens/s")
            for base in (BARE, FLOOR):
                if results[base].failure is None:
                    figures[f"{prefix}: × {base}"] = _figure(report.ratios(ours, results[base]))
    return figures, [_why(one) for one in results.values() if one.failure is not None]


def load(options: argparse.Namespace) -> Figures:
    """The loader's tokens per CPU-second, over those of random rows of a memory map."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        write_tokens(folder, vocab_size=data.VOCABULARY, tokens=1 << (18 if options.tiny else 24))
        readers = {reader: data.READERS[reader] for reader in ("memory map, random rows", "banyan")}
        batches = 4 if options.tiny else BATCHES
        seconds = data.read_in_turns(folder, rounds=options.rounds, batches=batches, readers=readers)
    pairs = zip(seconds["banyan"], seconds["memory map, random rows"], strict=True)
    return {"loader: × memory map, by CPU": _figure([theirs[1] / ours[1] for ours, theirs in pairs])}


def begin(options: argparse.Namespace) -> Figures:
    """Seconds to the first step, and to the next one of a run that goes on, beyond bare imports."""
    case = Case("start").shrunk() if options.tiny else Case("start")
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        write_tokens(folder, vocab_size=case.vocab_size, tokens=1 << 18)
        rounds = max(1, options.rounds // 2)
        starts = start.measure_starts(folder, case, 0, rounds, warm_up=not options.tiny)
    figures = {}
    for what in ("to the first step", "resume to the next step"):
        more = [one - other for one, other in zip(starts[what], starts["bare imports"], strict=True)]
        figures[f"start: {what}, beyond imports"] = dataclasses.replace(_figure(more, "s"), higher_is_better=False)
    return figures


def quote(figures: Figures, facts: dict[str, Any]) -> str:
    """The line to quote: what, how fast against what, on what, by which revision."""
    prefix = next((name.partition(":")[0] for name in figures if "ZeRO 0" in name), None)
    if prefix is None:
        return "nothing to quote: Banyan didn't train"
    speed = figures[f"{prefix}: tokens/s"]
    against = [
        f"{figures[name].in_words()} of {words}"
        for base, words in ((BARE, "a bare PyTorch loop"), (FLOOR, "its matrix products alone"))
        if (name := f"{prefix}: × {base}") in figures
    ]
    where = facts["processor"] if facts["device"] == "cpu" else facts["device"]
    return (
        f'"Banyan {revision()} trains {prefix.split(",")[0]} at {speed.value:,.0f} tokens/s, {", ".join(against)} '
        f'({where}, torch {facts["torch"]})."'
    )


def revision() -> str:
    """The commit of this tree, with + where it was changed; "unknown" outside of git."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _figure(values: Sequence[float], unit: str = "") -> Figure:
    return Figure(statistics.median(values), report.spread(values), unit)


def _why(one: Measured) -> str:
    return f"{one.name}: {one.failure}"


if __name__ == "__main__":
    sys.exit(main())

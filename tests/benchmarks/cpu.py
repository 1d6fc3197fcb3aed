"""`make bench-cpu`: training speed on this machine's CPU, against the peers and against the matrix products alone.

python -m tests.benchmarks.cpu [--contest NAME …] [--rounds 8] [--steps 6] [--tiny]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks import report
from tests.benchmarks.case import Case
from tests.benchmarks.contest import ROOT, Contestant, Measured, compete
from tests.benchmarks.tokens import write_tokens

CASES = (
    Case("fp32"),
    Case("fp32-compiled", compile=True),
    Case("fp32-2-ranks", ranks=2),
    Case("fp32-2-ranks-compiled", ranks=2, compile=True),
    Case("bf16", precision="bf16"),
    Case("bf16-compiled", precision="bf16", compile=True),
)
"""One thread each; the model is the demonstration's, conf/model/tiny.yaml."""

FLOOR = "matrix products alone"
BARE = "bare loop"


def contestants() -> list[Contestant]:
    """Who competes."""
    return [
        Contestant(FLOOR, "products"),
        Contestant(BARE, "bare"),
        *(Contestant(f"banyan, ZeRO {stage}", "banyan", {"parallel.zero_stage": str(stage)}) for stage in (0, 1)),
        Contestant("Hugging Face Trainer", "huggingface", peer="huggingface"),
        Contestant("litgpt", "litgpt", peer="litgpt"),
        Contestant("Lightning", "lightning", peer="lightning"),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the contests that were named, by default all."""
    parser = argparse.ArgumentParser(prog="bench-cpu", description=__doc__)
    parser.add_argument("--contest", nargs="+", choices=[case.name for case in CASES], help="by default all")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6, help="of a turn")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="contestants whose name has one of these words")
    parser.add_argument("--tiny", action="store_true", help="a model of milliseconds, to see that it runs")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks")
    options = parser.parse_args(arguments)
    failures = 0
    for case in CASES:
        if options.contest and case.name not in options.contest:
            continue
        chosen = [one for one in contestants() if _matches(one.name, options.only)]
        results = hold(case.shrunk() if options.tiny else case, chosen, options)
        failures += sum(result.failure is not None and result.name.startswith("banyan") for result in results)
    return 1 if failures else 0


def hold(case: Case, chosen: list[Contestant], options: argparse.Namespace) -> list[Measured]:
    """Holds one contest, prints its table and writes its JSON."""
    facts = report.machine()
    with tempfile.TemporaryDirectory(prefix="bench-cpu-") as name:
        folder = Path(name)
        write_tokens(folder, vocab_size=case.vocab_size, tokens=max(1 << 18, 64 * case.tokens))
        results = compete(chosen, case, folder, rounds=options.rounds, steps=options.steps)
    print(f"\n{case.name}: {options.rounds} turns of {options.steps} steps of {case.tokens} tokens each")
    print(report.machine_line(facts))
    print(report.contest_table(case, results, base=BARE, floor=FLOOR), flush=True)
    content = {"machine": facts, "case": asdict(case), "steps": options.steps, "results": results}
    report.write(options.output / f"cpu-{case.name}.json", content)
    return results


def _matches(name: str, words: Sequence[str] | None) -> bool:
    return not words or any(word.lower() in name.lower() for word in words)


if __name__ == "__main__":
    sys.exit(main())

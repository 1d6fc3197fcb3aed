"""`make bench-watching`: what watching costs: a run with everything at its defaults beside one with all of it off.

python -m tests.benchmarks.watching [--rounds 12] [--steps 10] [--tiny]

Defaults are metrics.jsonl every 10 steps, the console and the rank's log, W&B (offline, where nobody has a key), heartbeats
and the watchdog. Exit code 1 if the run at its defaults has less than --least of the other's speed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks import report
from tests.benchmarks.case import Case
from tests.benchmarks.contest import ROOT, Contestant, compete
from tests.benchmarks.tokens import write_tokens

OFF = {
    "track.wandb.mode": "disabled",
    "track.console": "quiet",
    "track.every": "1000000",
    "health.hang_timeout_s": "0",
}
ON = {"track.wandb.mode": "offline"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Lets both take turns, prints their speeds and the ratio."""
    parser = argparse.ArgumentParser(prog="bench-watching", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=10, help="of a turn: a logged one among them")
    parser.add_argument("--least", type=float, default=0.0, help="ratio below which the exit code is 1")
    parser.add_argument("--tiny", action="store_true", help="a model of milliseconds, to see that it runs")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks")
    options = parser.parse_args(arguments)
    case = Case("watching").shrunk() if options.tiny else Case("watching")
    contestants = [Contestant("all off", "banyan", OFF), Contestant("defaults", "banyan", ON)]
    with tempfile.TemporaryDirectory(prefix="bench-watching-") as name:
        folder = Path(name)
        write_tokens(folder, vocab_size=case.vocab_size, tokens=max(1 << 18, 64 * case.tokens))
        results = compete(contestants, case, folder, rounds=options.rounds, steps=options.steps)
    facts = report.machine()
    print(report.machine_line(facts))
    failures = [f"{result.name}: {result.failure}" for result in results if result.failure]
    if failures:
        print("\n".join(failures))
        return 1
    off, on = results
    found = report.ratios(on, off)
    for result in results:
        print(f"{result.name:<9} {case.tokens / statistics.median(result.seconds):10,.0f} tokens/s")
    print(f"defaults / all off: {statistics.median(found):.4f} ± {report.spread(found):.4f} of {len(found)} rounds")
    report.write(options.output / "watching.json", {"machine": facts, "case": asdict(case), "results": results})
    return 1 if statistics.median(found) < options.least else 0


if __name__ == "__main__":
    sys.exit(main())

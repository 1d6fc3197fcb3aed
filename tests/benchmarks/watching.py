"""`make bench-watching`: what watching costs: a run with everything at its defaults beside one with all of it off.

python -m tests.benchmarks.watching [--rounds 12] [--steps 10] [--tiny]

Defaults are metrics.jsonl every 10 steps, console and log, W&B (offline, where nobody has a key), heartbeats and the
watchdog, and what looks after a run's health: the rule of spikes, losses by row for a spike's documents, sections timed
for stragglers, energy's counters. A third has the defaults but for health's. All take turns. Beside the time of a turn
stands the processor time that the run and all its processes spent meanwhile: on a machine that others use, that alone
says much. Exit code 1 if the ratio of it, defaults over all off, is below --least.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import psutil

from tests.benchmarks import report
from tests.benchmarks.case import Case
from tests.benchmarks.contest import ROOT, Contestant, Running
from tests.benchmarks.tokens import write_tokens

HEALTH_OFF = {
    "health.hang_timeout_s": "0",
    "health.timing_every": "0",
    "track.spike_documents": "0",
    "track.energy.measure": "false",
}
OFF = {
    "track.wandb.mode": "disabled",
    "track.console": "quiet",
    "track.every": "1000000",  # the rule of spikes judges logged steps
    **HEALTH_OFF,
}
ON = {"track.wandb.mode": "offline"}
CONTESTANTS = {"all off": OFF, "health off": ON | HEALTH_OFF, "defaults": ON}
TIMEOUT_S = 600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Lets both take turns, prints their speeds and the ratios."""
    parser = argparse.ArgumentParser(prog="bench-watching", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=10, help="of a turn: a logged one among them")
    parser.add_argument("--least", type=float, default=0.0, help="ratio below which the exit code is 1")
    parser.add_argument("--tiny", action="store_true", help="a model of milliseconds, to see that it runs")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks")
    options = parser.parse_args(arguments)
    case = Case("watching").shrunk() if options.tiny else Case("watching")
    with tempfile.TemporaryDirectory(prefix="bench-watching-") as name:
        folder = Path(name)
        write_tokens(folder, vocab_size=case.vocab_size, tokens=max(1 << 18, 64 * case.tokens))
        turns = take_turns(case, folder, rounds=options.rounds, steps=options.steps)
    facts = report.machine()
    print(report.machine_line(facts))
    found = {}
    for number, what in enumerate(("time", "processor time")):
        on = [turn[number] for turn in turns["defaults"]]
        for name in ("all off", "health off"):
            off = [turn[number] for turn in turns[name]]
            ratios = [one / other for one, other in zip(off, on, strict=True)]
            found.setdefault(what, ratios)
            speeds = [case.tokens * options.steps / statistics.median(seconds) for seconds in (off, on)]
            print(
                f"{what}: {name} {speeds[0]:,.0f} tokens/s, defaults {speeds[1]:,.0f}; defaults / {name} "
                f"{statistics.median(ratios):.4f} ± {report.spread(ratios):.4f} of {len(off)} rounds"
            )
    report.write(options.output / "watching.json", {"machine": facts, "case": asdict(case), "turns": turns})
    return 1 if statistics.median(found["processor time"]) < options.least else 0


def take_turns(case: Case, folder: Path, *, rounds: int, steps: int) -> dict[str, list[tuple[float, float]]]:
    """(seconds, processor seconds) of each turn of `steps`, by contestant; who begins changes from round to round."""
    running = [Running(Contestant(name, "banyan", settings), case, folder) for name, settings in CONTESTANTS.items()]
    turns: dict[str, list[tuple[float, float]]] = {one.name: [] for one in running}
    try:
        for one in running:
            one.hear(TIMEOUT_S)
        for number in range(rounds):
            for one in running[:: 1 if number % 2 == 0 else -1]:
                before = processor_seconds(one)
                seconds, _ = one.take_turn(steps, TIMEOUT_S)
                turns[one.name].append((seconds, processor_seconds(one) - before))
    finally:
        for one in running:
            one.end()
    return turns


def processor_seconds(running: Running) -> float:
    """What a contestant's processes have spent, W&B's service among them."""
    mine = [psutil.Process(process.pid) for process in running._processes]
    times = [process.cpu_times() for each in mine for process in (each, *each.children(recursive=True))]
    return sum(each.user + each.system for each in times)


if __name__ == "__main__":
    sys.exit(main())

"""`make bench-watching`: what watching costs: a run with everything at its defaults beside one with all of it off.

python -m tests.benchmarks.watching [--rounds 20] [--steps 10] [--starts 1] [--tiny]

Defaults are metrics.jsonl every 10 steps, console and log, W&B (offline, where nobody has a key), heartbeats and the
watchdog, and what looks after a run's health: the rule of spikes, losses by row for a spike's documents, sections timed
for stragglers, energy's counters. Another has the defaults but for health's. "All off" takes part twice: what lies
between the two is the scatter of equal things. All take turns, forwards and backwards; --starts lets them begin anew,
since it matters where a process's memory happens to lie. Beside the time of a turn stands the processor time that the
run and all its processes spent meanwhile: on a machine that others use, that alone says much.

Ratios are by round, of speeds; after ± is the standard error of their median. Then the defaults once more, alone: what
each part of watching takes of a step, counted within it, which scatters far less. Exit code 1 if the processor time
leaves no doubt (two standard errors) that defaults over all off are below --least.
"""

from __future__ import annotations

import argparse
import math
import os
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
BASE, CONTROL, DEFAULTS = "all off", "all off again", "defaults"
CONTESTANTS = {BASE: OFF, DEFAULTS: ON, "health off": ON | HEALTH_OFF, CONTROL: OFF | {"run.name": "again"}}
TIMEOUT_S = 600.0
TICK_S = 1 / os.sysconf("SC_CLK_TCK")  # in which the system counts processor time: a short turn takes none
ACCOUNT_TURNS = 6  # of the defaults alone
Turns = dict[str, list[tuple[float, float]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Lets all take turns, prints their speeds and the ratios, and what each part takes."""
    parser = argparse.ArgumentParser(prog="bench-watching", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="of turns, after each start; 0: the account alone")
    parser.add_argument("--steps", type=int, default=10, help="of a turn: a logged one among them")
    parser.add_argument("--starts", type=int, default=1, help="of all processes")
    parser.add_argument("--least", type=float, default=0.0, help="ratio below which the exit code is 1")
    parser.add_argument("--tiny", action="store_true", help="a model of milliseconds, to see that it runs")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks")
    options = parser.parse_args(arguments)
    case = Case("watching").shrunk() if options.tiny else Case("watching")
    turns: Turns = {name: [] for name in CONTESTANTS}
    with tempfile.TemporaryDirectory(prefix="bench-watching-") as name:
        write_tokens(Path(name), vocab_size=case.vocab_size, tokens=max(1 << 18, 64 * case.tokens))
        for _ in range(options.starts if options.rounds else 0):
            for contestant, taken in take_turns(case, Path(name), rounds=options.rounds, steps=options.steps).items():
                turns[contestant] += taken
        account = take_account(case, Path(name), steps=options.steps)
    facts = report.machine()
    print(report.machine_line(facts))
    most = math.inf
    for number, what in enumerate(("time", "processor time") if options.rounds else ()):
        seconds = {name: [turn[number] for turn in taken] for name, taken in turns.items()}
        most = print_ratios(what, seconds, case.tokens * options.steps)
    print_account(account)
    content = {"machine": facts, "case": asdict(case), "steps": options.steps, "turns": turns, "account": account}
    report.write(options.output / "watching.json", content)
    return 1 if most < options.least else 0


def take_turns(case: Case, folder: Path, *, rounds: int, steps: int) -> Turns:
    """(seconds, processor seconds) of each turn of `steps`, by contestant; every other round goes backwards."""
    running = [Running(Contestant(name, "banyan", settings), case, folder) for name, settings in CONTESTANTS.items()]
    turns: Turns = {one.name: [] for one in running}
    try:
        for one in running:
            one.hear(TIMEOUT_S)
        for number in range(rounds):
            for one in running[:: 1 if number % 2 == 0 else -1]:
                before = processor_seconds(one)
                seconds, _ = one.take_turn(steps, TIMEOUT_S)
                turns[one.name].append((seconds, max(TICK_S, processor_seconds(one) - before)))
    finally:
        for one in running:
            one.end()
    return turns


def processor_seconds(running: Running) -> float:
    """What a contestant's processes have spent, W&B's service among them."""
    mine = [psutil.Process(process.pid) for process in running._processes]
    times = [process.cpu_times() for each in mine for process in (each, *each.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def print_ratios(what: str, seconds: dict[str, list[float]], tokens: int) -> float:
    """Prints speeds and their ratios to all off; the most that defaults' ratio may be, by two standard errors."""
    most = math.inf
    print(
        f"{what}: " + ", ".join(f"{name} {tokens / statistics.median(taken):,.0f}" for name, taken in seconds.items())
    )
    for name in (DEFAULTS, "health off", CONTROL):
        ratios = [off / mine for off, mine in zip(seconds[BASE], seconds[name], strict=True)]
        error = error_of_median(ratios)
        print(f"  {name} / {BASE} {statistics.median(ratios):.4f} ± {error:.4f} of {len(ratios)} rounds")
        if name == DEFAULTS:
            most = statistics.median(ratios) + 2 * error
    return most


def error_of_median(values: Sequence[float]) -> float:
    """The standard error of a median, from half of the distance between the quartiles, as of a normal distribution."""
    return math.sqrt(math.pi / 2) * report.spread(values) / 0.6745 / math.sqrt(len(values))


def take_account(case: Case, folder: Path, *, steps: int) -> dict[str, float]:
    """Processor milliseconds of a step by part of watching, the defaults alone; "a step" is all of it."""
    one = Running(Contestant("account", "watched", ON | {"run.name": "account"}), case, folder)
    try:
        one.hear(TIMEOUT_S)
        before, began = one.heard[0]["account"], processor_seconds(one)
        for _ in range(ACCOUNT_TURNS):
            one.take_turn(steps, TIMEOUT_S)
        spent = {"a step": processor_seconds(one) - began}
        spent |= {name: seconds - before.get(name, 0.0) for name, seconds in one.heard[0]["account"].items()}
    finally:
        one.end()
    return {name: 1e3 * seconds / (ACCOUNT_TURNS * steps) for name, seconds in spent.items()}


def print_account(account: dict[str, float]) -> None:
    """Prints what each part takes, the most first."""
    whole = account["a step"]
    parts = sorted(((ms, name) for name, ms in account.items() if name != "a step"), reverse=True)
    total = sum(ms for ms, _ in parts)
    print(f"of a step's {whole:,.1f} ms of processor time, watching takes {total:.3f} ms ({total / whole:.2%}):")
    for ms, name in parts:
        print(f"  {ms:.3f} ms  {name}")


if __name__ == "__main__":
    sys.exit(main())

"""`make bench-compare BASE=rev`: the training speed of this tree against that of another revision, turn by turn.

python -m tests.benchmarks.compare BASE [--contest NAME …] [--rounds 12] [--steps 6]

Both are measured by this tree's benchmark, in this environment. Exit code 1 if this tree is slower than --least.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks import report
from tests.benchmarks.case import Case
from tests.benchmarks.contest import ROOT, Contestant, compete
from tests.benchmarks.cpu import CASES
from tests.benchmarks.tokens import write_tokens

PACKAGES = ("trainer", "launch", "conf", "slurm")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(
        prog="bench-compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", help="a revision, as git knows it")
    parser.add_argument("--contest", nargs="+", choices=[case.name for case in CASES], default=["fp32"])
    parser.add_argument("--zero-stage", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=6, help="of a turn")
    parser.add_argument("--least", type=float, default=0.0, help="ratio below which the exit code is 1")
    parser.add_argument("--tiny", action="store_true", help="a model of milliseconds, to see that it runs")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks")
    options = parser.parse_args(arguments)
    slow = False
    with tree_of(options.base) as base:
        for case in CASES:
            if case.name in options.contest:
                slow |= compare(case.shrunk() if options.tiny else case, base, options) < options.least
    return 1 if slow else 0


@contextmanager
def tree_of(revision: str) -> Iterator[Path]:
    """A folder in which Banyan's packages are those of a revision, and the tests, with this benchmark, ours."""
    git = ["git", "-C", str(ROOT)]
    found = subprocess.run([*git, "rev-parse", "--verify", "-q", f"{revision}^{{commit}}"], capture_output=True)
    if found.returncode:
        sys.exit(f"bench-compare: {revision}: git knows no such revision; give a commit, a branch or a tag.")
    with tempfile.TemporaryDirectory(prefix="bench-compare-") as name:
        checkout, mixed = Path(name) / "checkout", Path(name) / "mixed"
        subprocess.run([*git, "worktree", "add", "--detach", "-q", checkout, revision], check=True)
        try:
            mixed.mkdir()
            for package in PACKAGES:
                os.symlink(checkout / package, mixed / package)
            os.symlink(ROOT / "tests", mixed / "tests")
            yield mixed
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", checkout], check=True)


def compare(case: Case, base: Path, options: argparse.Namespace) -> float:
    """Holds the contest of a case; the lowest ratio of ours to the base's, over the ZeRO stages."""
    chosen = []
    for stage in options.zero_stage:
        settings = {"parallel.zero_stage": str(stage)}
        chosen.append(
            Contestant(f"{options.base}, ZeRO {stage}", "banyan", {**settings, "run.name": "base"}, tree=base)
        )
        chosen.append(Contestant(f"this tree, ZeRO {stage}", "banyan", {**settings, "run.name": "ours"}))
    facts = report.machine()
    with tempfile.TemporaryDirectory(prefix="bench-compare-") as name:
        folder = Path(name)
        write_tokens(folder, vocab_size=case.vocab_size, tokens=max(1 << 18, 64 * case.tokens))
        results = {one.name: one for one in compete(chosen, case, folder, rounds=options.rounds, steps=options.steps)}
    rows, lowest = [], float("inf")
    for theirs, ours in zip(chosen[::2], chosen[1::2], strict=True):
        failure = results[theirs.name].failure or results[ours.name].failure
        if failure:
            sys.exit(f"bench-compare: {failure}")
        against = report.ratios(results[ours.name], results[theirs.name])
        ratio = statistics.median(against)
        lowest = min(lowest, ratio)
        speeds = [f"{case.tokens / statistics.median(results[one.name].seconds):,.0f}" for one in (theirs, ours)]
        rows.append([ours.name.partition(", ")[2], *speeds, f"{ratio:.3f} ± {report.spread(against):.3f}"])
    print(f"\n{case.name}: {options.rounds} turns of {options.steps} steps of {case.tokens} tokens each")
    print(report.machine_line(facts))
    print(report.show(["", f"{options.base}, tokens/s", "this tree", "ratio"], rows), flush=True)
    content = {"machine": facts, "base": options.base, "case": dataclasses.asdict(case)}
    content["results"] = [asdict(one) for one in results.values()]
    report.write(options.output / f"compare-{case.name}.json", content)
    return lowest


if __name__ == "__main__":
    sys.exit(main())

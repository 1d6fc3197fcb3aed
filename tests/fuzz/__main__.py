"""`python -m tests.fuzz`: one case again, or many with a summary by kind."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

from tests.fuzz.runner import SHARES, again, folders, run_cases, serving, shares_of
from tests.fuzz.verb_process import Verdict


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--verb", action="append", choices=sorted(SHARES), help="by default all")
    parser.add_argument("--seed", type=int, help="one case, told in full")
    parser.add_argument("--keep", type=Path, help="with --seed: an empty folder for the case, which stays")
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed0", type=int, default=0, help="first seed of every verb")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--report", type=Path, help="a file for all that went wrong")
    arguments = parser.parse_args()
    verbs = arguments.verb or list(SHARES)
    if arguments.seed is not None:
        return _tell_one(verbs[0], arguments.seed, arguments.keep)
    return _tell_many(verbs, arguments)


def _tell_one(verb: str, seed: int, keep: Path | None) -> int:
    with contextlib.ExitStack() as stack:
        root = keep or stack.enter_context(folders())
        verdict = stack.enter_context(serving(verb, root))(seed)
    print(_in_full(verdict))
    return 1 if verdict.wrong else 0


def _in_full(verdict: Verdict) -> str:
    lines = [
        f"{verdict.verb} {verdict.scenario}, seed {verdict.seed}: exit code {verdict.code} after {verdict.seconds} s",
        *(f"  mutated  {mutation}" for mutation in verdict.mutations),
        f"  wrong    {verdict.wrong or 'nothing'} {verdict.where}",
        "--- stdout",
        verdict.stdout,
        "--- stderr",
        verdict.stderr,
        "--- stack",
        verdict.stack,
    ]
    return "\n".join(lines)


def _tell_many(verbs: list[str], arguments: argparse.Namespace) -> int:
    counts = shares_of(arguments.cases, verbs)
    seeds = {verb: list(range(arguments.seed0, arguments.seed0 + count)) for verb, count in counts.items()}
    codes: Counter[tuple[str, str, int]] = Counter()
    kinds: defaultdict[tuple[str, str, str], list[Verdict]] = defaultdict(list)
    began = time.monotonic()
    report = arguments.report.open("w") if arguments.report else None

    def tell(verdict: Verdict) -> None:
        codes[verdict.verb, verdict.scenario, verdict.code] += 1
        if verdict.wrong:
            kinds[verdict.verb, verdict.wrong, verdict.where].append(verdict)
            if report:
                print(_in_full(verdict), file=report, flush=True)
        if codes.total() % 100 == 0:
            wrong = sum(map(len, kinds.values()))
            print(
                f"{codes.total()} cases, {wrong} wrong, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True
            )

    run_cases(seeds, jobs=arguments.jobs, tell=tell)
    for verb, scenario in sorted({key[:2] for key in codes}):
        ends = ", ".join(
            f"{count} with {code}" for (v, s, code), count in sorted(codes.items()) if (v, s) == (verb, scenario)
        )
        print(f"{verb} {scenario}: {ends}")
    for (verb, wrong, where), verdicts in sorted(kinds.items(), key=lambda item: -len(item[1])):
        first = verdicts[0]
        print(f"\n{len(verdicts)} x {verb} ({first.scenario}): {wrong} {where}")
        print(f"    {'; '.join(first.mutations)[:300]}\n    {again(first)}")
    print(f"\n{codes.total()} cases in {time.monotonic() - began:.0f} s, {sum(map(len, kinds.values()))} wrong")
    return 1 if kinds else 0


if __name__ == "__main__":
    sys.exit(main())

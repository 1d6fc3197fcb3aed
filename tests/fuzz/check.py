"""What the tests of this folder do: the cases of a verb, one after the other."""

from __future__ import annotations

from pathlib import Path
from random import SystemRandom

import pytest

from tests.fuzz.runner import again, serving, shares_of

CASES = 300
FULL_CASES = 20_000


def check(verb: str, root: Path, *, cases: int, seed0: int) -> None:
    """Runs the verb's share of `cases` from `seed0` on; fails with a line, and a command, for each that is wrong."""
    seeds = range(seed0, seed0 + shares_of(cases)[verb])
    print(f"{verb}: seeds {seeds.start} to {seeds.stop - 1}")
    with serving(verb, root) as run:
        wrong = [verdict for verdict in map(run, seeds) if verdict.wrong]
    if wrong:
        lines = [f"{each.wrong} {each.where} ({'; '.join(each.mutations)})\n    {again(each)}" for each in wrong]
        pytest.fail(f"{len(wrong)} of {len(seeds)} cases:\n" + "\n".join(lines), pytrace=False)


def any_seed() -> int:
    """Another one each time."""
    return SystemRandom().randrange(10**9)

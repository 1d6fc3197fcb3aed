"""`make bench-compare`: what `make bench` has found against the baseline of the same device.

python -m tests.benchmarks.baseline [--accept]

Baselines are tests/benchmarks/baselines/DEVICE.json, written by --accept. A figure is worse if it is so by more than
both spreads and by more than --least allows: then the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks import report
from tests.benchmarks.bench import FILE, Figure, Figures
from tests.benchmarks.contest import ROOT

BASELINES = Path(__file__).parent / "baselines"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares, prints a table; 1 where something is worse, 2 where there is nothing to compare."""
    parser = argparse.ArgumentParser(
        prog="bench-compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--found", type=Path, default=ROOT / "build" / "benchmarks" / FILE)
    parser.add_argument("--baselines", type=Path, default=BASELINES)
    parser.add_argument("--least", type=float, default=0.95, help="of the baseline, below which a figure is worse")
    parser.add_argument("--accept", action="store_true", help="make what was found the baseline")
    options = parser.parse_args(arguments)
    if not options.found.exists():
        print(f"bench-compare: {options.found} isn't there: run `make bench` first.", file=sys.stderr)
        return 2
    found = json.loads(options.found.read_text(encoding="utf-8"))
    file = options.baselines / f"{device_slug(found['machine'])}.json"
    if options.accept:
        options.baselines.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"the baseline is now {file}")
        return 0
    if not file.exists():
        known = ", ".join(sorted(path.stem for path in options.baselines.glob("*.json"))) or "none yet"
        print(
            f"bench-compare: no baseline for {file.stem} (there are: {known}); ARGS=--accept makes this one it.",
            file=sys.stderr,
        )
        return 2
    base = json.loads(file.read_text(encoding="utf-8"))
    rows, worse = compare_figures(figures_of(found), figures_of(base), options.least)
    print(f"{file.stem}: {base['revision']} of {base['machine']['time'][:10]}, and {found['revision']} now")
    print(report.show(["", "baseline", "now", "×", ""], rows))
    return 1 if worse else 0


def device_slug(facts: dict[str, Any]) -> str:
    """The name of a device's baseline: its GPU, or its processor with cores and instructions."""
    name = facts["device"]
    if name == "cpu":
        name = f"{facts['processor']} {facts['cores']} cores {facts['instructions']}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def figures_of(record: dict[str, Any]) -> Figures:
    """The figures of a file."""
    return {name: Figure(**figure) for name, figure in record["figures"].items()}


def compare_figures(found: Figures, base: Figures, least: float) -> tuple[list[list[str]], bool]:
    """Rows of the table, and whether anything is worse, or missing."""
    rows, worse = [], False
    for name, before in base.items():
        now = found.get(name)
        if now is None:
            rows.append([name, before.in_words(), "none", "", "missing"])
            worse = True
            continue
        ratio = now.value / before.value if before.value else 1.0
        lost = before.value - now.value if before.higher_is_better else now.value - before.value
        is_worse = lost > before.spread + now.spread and lost > (1 - least) * abs(before.value)
        worse |= is_worse
        rows.append([name, before.in_words(), now.in_words(), f"{ratio:.3f}", "worse" if is_worse else ""])
    rows += [[name, "none", figure.in_words(), "", "new"] for name, figure in found.items() if name not in base]
    return rows, worse


if __name__ == "__main__":
    sys.exit(main())

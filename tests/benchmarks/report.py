"""Tables and JSON of what was measured: medians and spreads, and ratios of turns that followed each other."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.benchmarks.case import Case
from tests.benchmarks.contest import Measured
from tests.benchmarks.contestants.products import flops


def spread(values: Sequence[float]) -> float:
    """Half of the distance between the quartiles; 0 for fewer than three values."""
    if len(values) < 3:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4)
    return (high - low) / 2


def ratios(measured: Measured, base: Measured) -> list[float]:
    """Speeds of `measured` over those of `base`, round by round."""
    return [theirs / ours for ours, theirs in zip(measured.seconds, base.seconds, strict=True)]


def show(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with aligned columns, as Markdown has it."""
    table = [list(header), *map(list, rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in table
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def contest_table(
    case: Case,
    results: Sequence[Measured],
    *,
    base: str,
    floor: str,
    extra: tuple[list[str], dict[str, list[str]]] = ([], {}),
) -> str:
    """A contest's table: tokens/s, its spread, the speed relative to `base`, and the share of the floor's speed.

    GFLOP/s count a step's matrix products on all ranks: the floor's are the peak that the device has in these sizes.
    `extra` are the titles of further columns and their cells by contestant. Those that failed stand below, with why.
    """
    by_name = {result.name: result for result in results}
    titles, cells_of = extra
    rows, failures = [], []
    for result in results:
        if result.failure is not None:
            failures.append(f"{result.name}: {result.failure}")
            rows.append([result.name, "none", "", "", "", *("" for _ in titles)])
            continue
        speeds = [case.tokens / seconds for seconds in result.seconds]
        cells = [result.name, f"{statistics.median(speeds):,.0f} ± {spread(speeds):,.0f}"]
        cells.append(f"{flops(case) / statistics.median(result.seconds) / 1e9:,.1f}")
        for other in (base, floor):
            shown = ""
            if (reference := by_name.get(other)) is not None and reference.seconds:
                against = ratios(result, reference)
                shown = f"{statistics.median(against):.3f} ± {spread(against):.3f}"
            cells.append(shown)
        rows.append(cells + cells_of.get(result.name, ["" for _ in titles]))
    return "\n".join([show(["", "tokens/s", "GFLOP/s", f"× {base}", f"× {floor}", *titles], rows), *failures])


def machine() -> dict[str, Any]:
    """Where it was measured."""
    import torch

    processor = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "processor": processor,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def machine_line(facts: dict[str, Any]) -> str:
    """The machine in a line."""
    device = "" if facts["device"] == "cpu" else f"{facts['device']}, "
    return (
        f"{device}{facts['processor']}, {facts['cores']} cores ({facts['instructions']}), torch {facts['torch']}, "
        f"load {facts['load']:.2f}"
    )


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON and says where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, default=asdict) + "\n")
    print(f"written: {path}", flush=True)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []

"""Draws docs/slurm_timeline.svg: a run's steps against time, with what its job's log says of starts and stops.

python docs/slurm_timeline.py RUN_DIR JOB_LOG docs/slurm_timeline.svg
"""

import json
import re
import sys
import time
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

LINE = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) job \d+: ([^,:\n]+)", re.MULTILINE)
PAUSE_S = 3.0  # without a step: the ranks weren't training


def read_events(log: Path) -> list[tuple[float, str]]:
    """(time, what happened) of every line that the batch script wrote."""
    found = LINE.findall(log.read_text())
    return [(time.mktime(time.strptime(when, "%Y-%m-%d %H:%M:%S")), what) for when, what in found]


def read_stretches(run_dir: Path) -> list[list[tuple[float, int]]]:
    """(time, step) of every step that counts, a list for each stretch without a pause."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    stretches: list[list[tuple[float, int]]] = []
    for row in rows:
        if "train/loss" not in row:
            continue
        if not stretches or row["time"] - stretches[-1][-1][0] > PAUSE_S:
            stretches.append([])
        stretches[-1].append((row["time"], row["step"]))
    return stretches


def main(run_dir: Path, log: Path, output: Path) -> None:
    """Draws the picture."""
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "banyan"})
    stretches, events = read_stretches(run_dir), read_events(log)
    origin, top = events[0][0], stretches[-1][-1][1]
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for stretch in stretches:
        axes.plot([when - origin for when, _ in stretch], [step for _, step in stretch], "tab:green", linewidth=3)
    for number, (when, what) in enumerate(events):
        axes.axvline(when - origin, color="0.8", linewidth=1, zorder=0)
        axes.text(when - origin, -top * (0.12 + 0.07 * number), f" {what}", fontsize=8)
    axes.axhline(0, color="0.8", linewidth=1)
    axes.set(
        xlabel="seconds since the job's first start",
        ylabel="step",
        ylim=(-top * (0.1 + 0.07 * len(events)), top * 1.04),
    )
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= top])
    FigureCanvasSVG(figure).print_svg(output, metadata={"Date": None})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

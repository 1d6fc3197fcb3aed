"""Draws docs/slurm_timeline.svg: a run's steps against time, with what its job's log says of starts and stops.

python docs/slurm_timeline.py RUN_DIR JOB_LOG docs/slurm_timeline.svg
"""

import json
import re
import sys
import time
from pathlib import Path

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

LINE = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) job \d+: ([^,:]+)", re.MULTILINE)


def read_events(log: Path) -> list[tuple[float, str]]:
    """(time, what happened) of every line that the batch script wrote."""
    found = LINE.findall(log.read_text())
    return [(time.mktime(time.strptime(when, "%Y-%m-%d %H:%M:%S")), what) for when, what in found]


def main(run_dir: Path, log: Path, output: Path) -> None:
    """Draws the picture."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    points = [(row["time"], row["step"]) for row in rows if "train/loss" in row]
    events = read_events(log)
    origin = events[0][0]
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([when - origin for when, _ in points], [step for _, step in points], ".", markersize=3)
    top = max(step for _, step in points)
    for number, (when, what) in enumerate(events):
        axes.axvline(when - origin, color="0.8", linewidth=1, zorder=0)
        axes.text(when - origin, top * (0.97 - 0.06 * (number % 6)), f" {what}", fontsize=8)
    axes.set(xlabel="seconds since the job's first start", ylabel="step (those that count)")
    FigureCanvasSVG(figure).print_svg(output, metadata={"Date": None})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

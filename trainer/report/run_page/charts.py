"""Which curves a page has, and their points, as page.js reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.machine.terminal import safe
from trainer.report.run_page.layers import HeatMap
from trainer.report.run_page.record import RunRecord
from trainer.report.run_page.spikes import MOST_SPIKES, severity
from trainer.report.run_page.thinned import Thinned
from trainer.track.catalogue import LOGGED, chart_of, find_logged

LOSS = "train/loss"
DIGITS = 7  # of a value: fp32 has no more
MOST_BAD = 500  # skipped steps that are marked
MOST_LINES = 60  # of a chart
MOST_CHARTS = 80


def chart_data(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """All that page.js draws. With several runs every metric has a chart of its own, with a line for each run."""
    names = list(dict.fromkeys(name for run in runs for name in run.series.metrics))
    charts: dict[str, dict[str, Any]] = {}
    for name in sorted(names, key=_place):
        title, unit = chart_of(name)
        title = name if len(runs) > 1 else title
        chart = charts.setdefault(title, {"title": safe(title), "unit": unit, "lines": []})
        for number, run in enumerate(runs):
            if name in run.series.metrics and len(chart["lines"]) < MOST_LINES:
                label = run.name if len(runs) > 1 else _label(name)
                chart["lines"].append({"run": number, "metric": name, "label": safe(label)})
    maps = [_map(each) for each in runs[0].layers.found()] if len(runs) == 1 else []
    return {"runs": [_run(run) for run in runs], "charts": list(charts.values())[:MOST_CHARTS], "maps": maps}


def _place(name: str) -> tuple[int, str]:
    found = find_logged(name)
    return (LOGGED.index(found) if found is not None else len(LOGGED), name)


def _label(name: str) -> str:
    """A line's name in its chart: `train`, `validation`, `f1`."""
    parts = name.split("/")
    if name == LOSS:
        return "train"
    if name.startswith("eval/"):
        inner = name.removeprefix("eval/")
        head, _, tail = inner.rpartition("/")
        return head if tail in ("loss", "bits_per_byte") else f"{head}: {tail}"
    return "/".join(parts[1:-1]) if len(parts) > 2 else parts[-1].replace("_", " ")


def _run(run: RunRecord) -> dict[str, Any]:
    rows = run.series.moments.rows()
    began = run.began or 0.0
    return {
        "name": safe(run.name),
        "step": [row[0] for row in rows],
        "tokens": [row[1] for row in rows],
        "time": [round(max(0.0, row[2] - began), 2) for row in rows],
        "flops": run.flops_per_token,
        "marks": [
            {
                "step": life.start.step,
                "time": round(max(0.0, life.start.time - began), 2),
                "text": safe(f"started again from step {life.start.step:,}: {reason}"),
            }
            for life, reason in zip(run.lives[1:], run.reasons, strict=False)
        ],
        "bad": [
            *(
                [each.from_step, f"step {each.from_step:,} was bad: rewound to step {each.to_step:,}"]
                for each in run.health.rewinds
            ),
            *([step, f"step {step:,} was bad: skipped"] for step in run.health.skipped[:MOST_BAD]),
        ],
        "spikes": [
            [spike.step, _short(loss)]
            for spike in sorted(sorted(run.all_spikes, key=severity)[-MOST_SPIKES:], key=lambda spike: spike.step)
            if (loss := spike.figures.get(LOSS)) is not None
        ],
        "series": {name: _series(series) for name, series in run.series.metrics.items()},
    }


def _series(series: Thinned) -> dict[str, Any]:
    points = series.points()
    found: dict[str, Any] = {"n": series.rows, "s": [step for step, _ in points], "v": [_short(v) for _, v in points]}
    if series.width > 1:
        means = series.means()
        found |= {"width": series.width, "ms": [round(step, 1) for step, _ in means]}
        found["mv"] = [_short(value) for _, value in means]
    return found


def _map(layers: HeatMap) -> dict[str, Any]:
    """A heat map: a column for each line, or several; cells by layer, null where there is no value."""
    shown, other = layers.greatest, layers.least
    if layers.statistic.shows_least:
        shown, other = other, shown
    found: dict[str, Any] = {
        "title": layers.statistic.title,
        "unit": layers.statistic.unit,
        "labels": [safe(label) for label in layers.labels],
        "first": layers.first,
        "last": layers.last,
        "cells": _cells(shown),
    }
    if layers.width > 1:
        found |= {"others": _cells(other), "shows": "least" if layers.statistic.shows_least else "greatest"}
    return found


def _cells(columns: list[np.ndarray]) -> list[list[float | None]]:
    """By layer, then column, with the digits that a colour and a hand's width of text can show."""
    values = np.array(columns).T.tolist()
    return [[float(f"{value:.4g}") if value == value else None for value in row] for row in values]


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")

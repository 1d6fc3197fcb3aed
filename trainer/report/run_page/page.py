"""The page of a run, or of several beside each other: one HTML file that needs nothing else.

Its script is page.js, which draws curves from the data in the page; all text of others is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trainer.report.curves import readable_count
from trainer.report.frame import note, page, section, tiles
from trainer.report.markup import Content, Markup, element, table
from trainer.report.run_page.charts import chart_data
from trainer.report.run_page.health import energy_section, health_section
from trainer.report.run_page.life import GOOD_STATES, LIVE_STATES, life_section
from trainer.report.run_page.record import RunRecord
from trainer.report.run_page.sections import (
    configuration_section,
    environment_section,
    final_values,
    layout_section,
    profile_section,
    samples_section,
    spikes_section,
)
from trainer.report.run_page.style import STYLE
from trainer.track.sinks.console import duration

SCRIPT = ("axes.js", "curves.js", "heat.js", "page.js")
AXES = (("step", "step"), ("tokens", "tokens"), ("time", "time"), ("flops", "FLOPs"))


def run_as_html(run: RunRecord, other: RunRecord | None = None) -> str:
    """The page of a run; beside its configuration, what differs from that of `other`."""
    data = chart_data([run])
    body = [
        *_top(run),
        *_curves([run], data),
        *layers_section(run, data),
        *final_values([run]),
        *life_section(run),
        *health_section(run),
        *spikes_section(run),
        *samples_section(run),
        *layout_section(run),
        *profile_section(run),
        *energy_section(run),
        *environment_section(run),
        *configuration_section([run] if other is None else [run, other]),
    ]
    return page(f"{run.name}: report", body, style=STYLE, pictures=True, script=_script(), data=data)


def comparison_as_html(
    runs: Sequence[RunRecord], *, title: str, extra: Sequence[Content] = (), what: str = "runs"
) -> str:
    """Several runs: every metric with a line for each, last values, lives, and how configurations differ.

    `extra` comes before the curves: what a sweep found.
    """
    data = chart_data(runs)
    body: list[Content] = [
        element("h1", None, title),
        note(f"{len(runs)} {what} beside each other."),
        *extra,
        *_runs(runs),
        *_curves(runs, data),
        *final_values(runs),
        *configuration_section(runs),
    ]
    return page(f"{title}: comparison", body, style=STYLE, pictures=True, script=_script(), data=data)


def _script() -> str:
    """All that the page runs: its files one after another, in a scope of their own."""
    parts = [(Path(__file__).parent / "script" / name).read_text(encoding="utf-8") for name in SCRIPT]
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"


def state_mark(state: str) -> Markup:
    """A state in its colour."""
    kind = "good" if state in GOOD_STATES else "live" if state in LIVE_STATES else "bad"
    return element("span", {"class": f"state {kind}"}, state)


def _top(run: RunRecord) -> Iterator[Markup]:
    yield element("h1", None, run.name, " ", state_mark(run.state))
    reason = "" if run.reason in ("", run.state) else f" {run.state.capitalize()}: {run.reason}."
    yield note(f"{_what(run)}.{reason.replace('..', '.')}")
    yield tiles(list(_figures(run)))
    if run.command:
        yield element("pre", None, run.command)


def _what(run: RunRecord) -> str:
    """What ran, in a sentence."""
    facts, config = run.facts, run.config
    parameters = facts.get("parameters")
    size = f", {readable_count(parameters)} parameters" if isinstance(parameters, int) else ""
    data = [str(each.get("name")) for each in facts.get("data", []) if isinstance(each, dict)]
    on = f" on {', '.join(data)}" if data else ""
    objective = config.get("objective.name", "causal")
    return f"{config.get('model.name', 'a model')}{size}, objective {objective}{on}; run directory {run.run_dir}"


def _figures(run: RunRecord) -> Iterator[tuple[str, str]]:
    rows = run.series.moments.rows()
    total = run.lives[-1].start.total_steps if run.lives else 0
    if rows:
        step, tokens, _ = rows[-1]
        yield f"{step:,}", f"of {total:,} steps" if total else "steps"
        yield readable_count(tokens), "tokens"
    loss = run.last("train/loss")
    if loss is not None:
        yield f"{loss:.4f}", "training loss, last"
    for name in [name for name in run.series.metrics if name.startswith("eval/") and name.endswith("/loss")][:4]:
        values = [value for _, value in run.series.metrics[name].points()]
        if values:
            yield f"{values[-1]:.4f}", f"{name[5:-5]} loss, last (best {min(values):.4f})"
    speed = run.last("perf/tokens_per_second")
    if speed is not None:
        yield readable_count(speed), "tokens per second, last"
    mfu = run.last("perf/mfu")
    yield (f"{mfu:.1%}", "MFU, last") if mfu is not None else ("not known", "MFU: no peak of this device")
    if rows and run.flops_per_token:
        yield f"{rows[-1][1] * run.flops_per_token:.3g}", f"model FLOPs ({run.flops_formula})"
    if rows and run.began is not None:
        yield duration(max(0.0, rows[-1][2] - run.began)), "from the first start to the last row"
    yield f"{max(0, len(run.lives) - 1)}", "restarts"
    yield run.energy


def _runs(runs: Sequence[RunRecord]) -> Iterator[Markup]:
    rows: list[list[Content]] = []
    for run in runs:
        moments = run.series.moments.rows()
        last = moments[-1] if moments else (0, 0, 0.0)
        loss = run.last("train/loss")
        rows.append(
            [
                run.name,
                state_mark(run.state),
                f"{last[0]:,}",
                readable_count(last[1]),
                "" if loss is None else f"{loss:.4f}",
                duration(max(0.0, last[2] - run.began)) if moments and run.began is not None else "",
                f"{max(0, len(run.lives) - 1)}",
                element("span", {"class": "wide"}, run.run_dir),
            ]
        )
    head = ["Run", "State", "Steps", "Tokens", "Loss, last", "Time", "Restarts", "Folder"]
    yield section("Runs", table(head, rows, texts=2, words=(7,), cards=True))


def _curves(runs: Sequence[RunRecord], data: dict[str, Any]) -> Iterator[Markup]:
    if not data["charts"]:
        yield section("Curves", note("No rows in metrics.jsonl yet."))
        return
    has_flops = any(run.flops_per_token for run in runs)
    buttons = [
        element(
            "button", {"type": "button", "data-axis": key, "aria-pressed": "true" if key == "step" else "false"}, text
        )
        for key, text in AXES
        if key != "flops" or has_flops
    ]
    controls = element(
        "div",
        {"class": "controls"},
        element("div", {"role": "group", "aria-label": "Axis"}, element("span", {"class": "soft"}, "by"), buttons),
        element(
            "div",
            None,
            element("label", {"for": "smoothing", "class": "soft"}, "smoothing"),
            element(
                "input", {"type": "range", "id": "smoothing", "min": "0", "max": "0.99", "step": "0.01", "value": "0"}
            ),
            element("span", {"id": "smoothed", "class": "soft"}, "off"),
        ),
        element("button", {"type": "button", "id": "reset", "disabled": ""}, "whole run"),
        element(
            "span",
            {"class": "soft"},
            "drag across a curve to zoom, double-click for all of it; arrow keys move along it",
        ),
    )
    figures = [_chart(number, chart) for number, chart in enumerate(data["charts"])]
    missing = element("noscript", None, element("p", None, "Curves are drawn by this page's own script, which is off."))
    yield section(
        "Curves", missing, controls, element("div", {"class": "charts"}, figures), *_remarks(runs, len(data["charts"]))
    )


def _chart(number: int, chart: dict[str, Any]) -> Markup:
    place = {"class": "chart first" if number == 0 else "chart", "data-chart": str(number)}
    return _figure(place, chart, "Curve", element("div", {"class": "legend"}))


def _figure(place: dict[str, str], drawn: dict[str, Any], kind: str, *below: Markup) -> Markup:
    """A title with a switch to logarithms over a canvas."""
    return element(
        "figure",
        place,
        element(
            "figcaption",
            None,
            drawn["title"],
            element("span", {"class": "soft"}, drawn["unit"]),
            element("button", {"type": "button", "class": "log", "aria-pressed": "false"}, "log"),
        ),
        element("canvas", {"tabindex": "0", "role": "img", "aria-label": f"{kind} of {drawn['title']}"}),
        *below,
    )


def layers_section(run: RunRecord, data: dict[str, Any]) -> Iterator[Markup]:
    """A heat map, layer by step, for each statistic of layers.jsonl."""
    if not data["maps"]:
        return
    figures = [
        _figure({"class": "chart map", "data-map": str(number)}, each, "Heat map")
        for number, each in enumerate(data["maps"])
    ]
    width = max(each.width for each in run.layers.found())
    thinned = (
        f" {run.layers.lines:,} lines: a column stands for up to {width:,}, in the colour of the greatest value of "
        "each layer, of entropy and of the idlest expert the least; pointing names both."
        if width > 1
        else ""
    )
    about = f"From layers.jsonl (health.layers_every), by step from left to right, layers from the input down.{thinned}"
    yield section("Layers", note(about), element("div", {"class": "charts"}, figures))


def _remarks(runs: Sequence[RunRecord], shown: int) -> Iterator[Markup]:
    width = max((series.width for run in runs for series in run.series.metrics.values()), default=1)
    rows = sum(run.series.rows for run in runs)
    if width > 1:
        yield note(
            f"{rows:,} rows. Where a metric has more than can be drawn, each stretch of up to {width:,} rows is shown "
            "by its least and its greatest value, as they were logged, and by its mean, the stronger line."
        )
    missing = sum(series.missing for run in runs for series in run.series.metrics.values())
    if missing:
        yield note(f"{missing:,} values weren't finite, and are left out.")
    left = {name for run in runs for name in run.series.left_out}
    if left:
        yield note(f"{len(left):,} more metrics are left out; metrics.jsonl has them.")
    if any(len(run.lives) > 1 for run in runs):
        yield note("Dashed lines are restarts; point at one for its reason.")
    if any(run.health.skipped or run.health.rewinds for run in runs):
        yield note("Dotted lines are bad steps that were skipped or rewound.")
    if any(not math.isfinite(run.began or 0.0) for run in runs):
        yield note("The time of a start isn't known.")

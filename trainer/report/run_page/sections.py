"""The parts of a page below its curves: last values, spikes, samples, layout, operators, environment, configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from trainer.report.frame import note, section
from trainer.report.markup import Content, Markup, element, table
from trainer.report.run_page.record import RunRecord, SpikeStory
from trainer.track.catalogue import find_logged

OPEN_SAMPLES = 3
MOST_DIFFERENCES = 400


def final_values(runs: Sequence[RunRecord]) -> Iterator[Markup]:
    """The last value of every metric, with the least and the greatest of a single run."""
    names = list(dict.fromkeys(name for run in runs for name in run.series.metrics))
    rows: list[list[Content]] = []
    for name in names:
        found = find_logged(name)
        about: list[Content] = [
            element("code", None, name),
            element("span", {"class": "soft"}, found.unit if found else ""),
        ]
        if len(runs) > 1:
            rows.append([*about, *(_number(run.last(name)) for run in runs)])
            continue
        points = runs[0].series.metrics[name].points()
        if points:
            low, high = min(points, key=lambda point: point[1]), max(points, key=lambda point: point[1])
            rows.append(
                [*about, _number(points[-1][1]), f"{_number(low[1])} ({low[0]:,})", f"{_number(high[1])} ({high[0]:,})"]
            )
    if rows:
        columns = [run.name for run in runs] if len(runs) > 1 else ["Last", "Least (at step)", "Greatest (at step)"]
        inner = table(["Metric", "Unit", *columns], rows, texts=2)
        yield section("Values", element("details", None, element("summary", None, f"{len(rows):,} metrics"), inner))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 1e6 else f"{value:.5g}"


def spikes_section(run: RunRecord) -> Iterator[Markup]:
    """Losses that stood out, with the documents behind them."""
    total = len(run.all_spikes)
    rule = f"A spike is a loss or a gradient norm {run.series.spikes.rule.in_words}."
    if not total:
        yield section("Spikes", note(f"None. {rule}"))
        return
    more = f" The {len(run.spikes):,} greatest of {total:,} are shown." if len(run.spikes) < total else ""
    yield section("Spikes", note(rule + more), [_spike(story) for story in run.spikes])


def _spike(story: SpikeStory) -> Markup:
    spike = story.spike
    figures = ", ".join(f"{name.removeprefix('train/')} {_number(value)}" for name, value in spike.figures.items())
    limits = " and ".join(f"{name.removeprefix('train/')} {_number(value)}" for name, value in spike.limits.items())
    about = [f"The limit was {limits}." if limits else "", f"The step was {spike.outcome}." if spike.outcome else ""]
    parts: list[Content] = [
        element("h3", None, f"Step {spike.step:,}{': ' + figures.replace('_', ' ') if figures else ''}"),
        note(" ".join([*filter(None, about), "Its data:"]).replace("_", " ")),
        element("pre", None, spike.command),
    ]
    losses = {(each.source, each.record): each.row_loss for each in spike.documents}
    if story.documents:
        rows: list[list[Content]] = [
            [
                element("span", {"class": "wide"}, document.source),
                f"{document.record:,}",
                f"{document.tokens:,}",
                _number(losses.get((document.source, document.record))),
                f"{document.surprise:.2f}",
                element("div", {"class": "snippet"}, document.text),
            ]
            for document in story.documents
        ]
        head = ["Source", "Record", "Tokens in the step", "Loss of its row", "Surprise, nats", "Text"]
        parts.append(table(head, rows, words=(5,), cards=True))
        parts.append(
            note(
                "The documents most unlike the others: surprise is the mean of −log p of a document's tokens, p by "
                "their counts in steps around it."
            )
        )
    elif spike.documents:
        recorded: list[list[Content]] = [
            [
                element("span", {"class": "wide"}, each.source),
                f"{each.record:,}",
                f"{each.first:,} to {each.last:,} of {each.tokens:,}",
                _number(each.row_loss),
            ]
            for each in spike.documents
        ]
        parts.append(table(["Source", "Record", "Tokens", "Loss of its row"], recorded, cards=True))
    for problem in filter(None, (story.problem, spike.problem)):
        parts.append(note(problem))
    return element("div", {"class": "spike"}, parts)


def samples_section(run: RunRecord) -> Iterator[Markup]:
    """Texts that the run wrote, over time."""
    if not run.samples:
        return
    shown = sum(map(len, run.samples.values()))
    parts: list[Content] = []
    for name, texts in run.samples.items():
        parts.append(element("h3", None, name))
        for number, (step, text) in enumerate(reversed(texts)):
            parts.append(
                element(
                    "details",
                    {"open": ""} if number < OPEN_SAMPLES else None,
                    element("summary", None, f"step {step:,}"),
                    element("pre", None, text),
                )
            )
    more = (
        f" {shown:,} of {run.samples_total:,}, at even distances; samples.jsonl has all."
        if shown < run.samples_total
        else ""
    )
    yield section("Samples over time", note(f"The newest first.{more}"), parts)


def layout_section(run: RunRecord) -> Iterator[Markup]:
    """What `banyan plan` predicts of the last layout, beside what was measured."""
    if run.plan:
        rows: list[list[Content]] = [[each.what, each.predicted, each.measured, each.difference] for each in run.plan]
        inner: Content = table(["", "Predicted", "Measured", "Difference"], rows, texts=3)
    else:
        inner = note(run.plan_problem or "Not known.")
    yield section("Layout: plan and measured", note("By banyan plan, for the last start's ranks and layout."), inner)


def profile_section(run: RunRecord) -> Iterator[Markup]:
    """The dearest operators of profiled steps, and where the traces are."""
    if not run.profile and not run.profile_files:
        return
    parts: list[Content] = []
    for operators in run.profile:
        times = {"Own CPU ms": "self_cpu_us", "CPU ms": "cpu_us"}
        if operators.device.upper() != "CPU":
            times[f"Own {operators.device} ms"] = "self_device_us"
        rows: list[list[Content]] = [
            [
                element("code", None, str(row["name"])),
                f"{row['calls']:,}",
                *(f"{row[key] / 1e3:,.2f}" for key in times.values()),
            ]
            for row in operators.rows
        ]
        head = ["Operator", "Calls", *times]
        inner = table(head, rows)
        summary = element("summary", None, f"rank {operators.rank}, steps {operators.steps}")
        parts.append(element("details", {"open": ""} if operators is run.profile[0] else None, summary, inner))
    files = element("pre", None, "\n".join(run.profile_files))
    yield section(
        "Operators",
        note("By torch's profiler (train.profile). The traces open in Perfetto (ui.perfetto.dev) or HTA:"),
        files,
        parts,
    )


def environment_section(run: RunRecord) -> Iterator[Markup]:
    """Host, versions, commit, data."""
    rows: list[list[Content]] = []
    for key, value in {**run.environment, **run.facts}.items():
        if key in ("data", "time") and key == "data":
            continue
        for name, text in value.items() if isinstance(value, dict) else [("", value)]:
            rows.append([f"{key} {name}".strip().replace("_", " "), element("code", None, _text(text))])
    for each in run.facts.get("data", []):
        if isinstance(each, dict):
            text = f"{each.get('folder')} ({each.get('documents')} documents, {each.get('tokens')} tokens)"
            rows.append([f"data {each.get('name')}", element("code", None, text)])
    if rows:
        inner = table(["What", "Value"], rows, texts=2)
        yield section(
            "Environment", element("details", None, element("summary", None, "Versions, host and data"), inner)
        )


def configuration_section(runs: Sequence[RunRecord]) -> Iterator[Markup]:
    """The resolved configuration; of several runs, the keys that differ, then all of the first's."""
    first = runs[0].config
    parts: list[Content] = []
    if len(runs) > 1:
        keys = list(dict.fromkeys(key for run in runs for key in run.config))
        differing = [key for key in keys if len({_text(run.config.get(key)) for run in runs}) > 1]
        rows: list[list[Content]] = [
            [
                element("code", {"class": "key-name"}, key),
                *(element("code", None, _text(run.config.get(key))) for run in runs),
            ]
            for key in differing[:MOST_DIFFERENCES]
        ]
        parts.append(
            table(["Key", *(run.name for run in runs)], rows, texts=1 + len(runs), cards=True)
            if rows
            else note("They don't differ.")
        )
    whole: list[list[Content]] = [
        [element("code", {"class": "key-name"}, key), element("code", None, _text(value))]
        for key, value in first.items()
    ]
    title = "Configuration" if len(runs) == 1 else "How configurations differ"
    summary = element("summary", None, f"All {len(whole):,} keys of {runs[0].name}")
    yield section(title, parts, element("details", None, summary, table(["Key", "Value"], whole, texts=2)))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)

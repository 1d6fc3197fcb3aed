"""The part of a page that tells when a run ran, where, in which layout, and why each start ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from trainer.report.frame import note, section
from trainer.report.markup import Content, Markup, element, table
from trainer.report.run_page.record import RunRecord
from trainer.track.sinks.console import duration

GOOD_STATES = ("finished",)
LIVE_STATES = ("starting", "training", "evaluating", "saving", "ending")


def life_section(run: RunRecord) -> Iterator[Markup]:
    """A bar on the time axis, and a table of starts."""
    if not run.lives:
        yield section("Starts and restarts", note("Not known: this run was made before starts were recorded."))
        return
    ends = [_end_of(run, number) for number in range(len(run.lives))]
    first, last = run.lives[0].start.time, max([*ends, run.lives[-1].start.time + 1.0])
    whole = max(1e-3, last - first)
    pieces = [
        element(
            "i",
            {
                "class": "cut" if number < len(run.lives) - 1 else "",
                "style": f"left:{100 * (life.start.time - first) / whole:.3f}%;"
                f"width:{100 * max(0.0, end - life.start.time) / whole:.3f}%",
                "title": f"start {number + 1}: {utc_moment(life.start.time)} to {utc_moment(end)}",
            },
        )
        for number, (life, end) in enumerate(zip(run.lives, ends, strict=True))
    ]
    rows: list[list[Content]] = []
    for number, (life, end) in enumerate(zip(run.lives, ends, strict=True)):
        start = life.start
        before = run.lives[number - 1].start.layout if number else start.layout
        ranks_before = run.lives[number - 1].start.ranks if number else start.ranks
        changed = before != start.layout or ranks_before != start.ranks
        where = f"{start.host}, {start.launcher}" + (f" job {start.job}" if start.job else "")
        rows.append(
            [
                f"{number + 1}",
                utc_moment(start.time),
                duration(max(0.0, end - start.time)),
                element("span", {"class": "reason"}, where),
                element(
                    "span",
                    {"class": "reason"},
                    f"{start.ranks} rank{'s' * (start.ranks != 1)}, {layout_words(start.layout)}",
                    *([element("b", None, " (changed)")] if changed else []),
                ),
                f"{start.step:,}",
                f"{start.lost_steps:,}" if number else "",
                element("div", {"class": "reason"}, run.reasons[number] if number < len(run.reasons) else run.state),
            ]
        )
    head = ["Start", "When", "For", "Where", "Ranks and layout", "From step", "Steps lost", "How it ended"]
    yield section(
        "Starts and restarts",
        element("div", {"class": "life", "role": "img", "aria-label": f"{len(run.lives)} starts over time"}, pieces),
        element(
            "div", {"class": "ends"}, element("span", None, utc_moment(first)), element("span", None, utc_moment(last))
        ),
        table(head, rows, texts=5, words=(7,), cards=True),
        note("Steps lost were taken, and logged, after the checkpoint that the next start went on from."),
    )


def layout_words(layout: dict[str, Any]) -> str:
    """`ZeRO 2, tensor 4, bf16, batch 16 in micro-batches of 2`."""
    parts = [f"ZeRO {layout['zero_stage']}"] if "zero_stage" in layout else []
    parts += [f"{name} {layout[name]}" for name in ("tensor", "sequence", "offload") if layout.get(name, 1) != 1]
    parts += [str(layout["precision"])] if layout.get("precision") else []
    if "batch_size" in layout:
        parts.append(f"batch {layout['batch_size']} in micro-batches of {layout.get('micro_batch_size') or 'its own'}")
    return ", ".join(parts)


def _end_of(run: RunRecord, number: int) -> float:
    """When a start ended: as it was said, else the last row before the next one, or of all."""
    life = run.lives[number]
    told = [end.time for end in (life.end, life.failure) if end is not None]
    if told:
        return min(told)
    until = run.lives[number + 1].start.time if number + 1 < len(run.lives) else float("inf")
    rows = [time for _, _, time in run.series.moments.rows() if life.start.time <= time <= until]
    return max(rows, default=life.start.time)


def utc_moment(seconds: float) -> str:
    """A time in UTC, as everyone reads it."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))

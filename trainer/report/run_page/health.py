"""The parts of a page on a run's health: bad steps, slow ranks and data, rechecks, hangs, alerts, energy."""

from __future__ import annotations

from collections.abc import Iterator

from trainer.report.frame import note, section
from trainer.report.markup import Content, Markup, element, table
from trainer.report.run_page.life import utc_moment
from trainer.report.run_page.record import HealthRecord, RunRecord

MOST_STEPS = 200  # skipped ones that are named


def health_section(run: RunRecord) -> Iterator[Markup]:
    """What was said of the run's health, and what was done about it."""
    health = run.health
    parts = [*_bad_steps(health), *_notes(health), *_hang(health), *_alerts(health)]
    if not parts:
        text = "Nothing was noted: no step skipped or rewound, no slow rank or data, no hang, no alert."
        parts = [note(text)]
    yield section("Health", parts, [note(problem) for problem in health.problems])


def _bad_steps(health: HealthRecord) -> Iterator[Content]:
    if not health.skipped and not health.rewinds:
        return
    yield element("h3", None, "Skipped and rewound")
    if health.skipped:
        named = ", ".join(f"{step:,}" for step in health.skipped[:MOST_STEPS])
        more = f" and {len(health.skipped) - MOST_STEPS:,} more" if health.skipped[MOST_STEPS:] else ""
        yield note(f"{len(health.skipped):,} skipped: weights and moments stayed as they were at step {named}{more}.")
    if health.rewinds:
        rows: list[list[Content]] = [
            [f"{each.from_step:,}", f"{each.to_step:,}", f"{each.position:,}"] for each in health.rewinds
        ]
        yield table(["Bad step", "Rewound to step", "Data went on at position"], rows, texts=0)
        yield note("The data between a checkpoint and the end of its bad step were left out of the run.")


def _notes(health: HealthRecord) -> Iterator[Content]:
    if health.notes:
        rows: list[list[Content]] = [
            [utc_moment(each.time), each.about, element("div", {"class": "reason"}, each.text)] for each in health.notes
        ]
        yield element("h3", None, "Slow ranks, slow data, steps computed again")
        yield table(["When", "About", "What was said"], rows, texts=3, cards=True)


def _hang(health: HealthRecord) -> Iterator[Content]:
    if health.hang is not None:
        yield element("h3", None, f"Hang of {utc_moment(health.hang.time)}")
        yield element("p", {"class": "reason"}, health.hang.report)
        rows: list[list[Content]] = [[f"{rank}", element("code", None, text)] for rank, text in health.hang.ranks]
        yield table(["Rank", "Where it was"], rows, texts=2)
        yield note("Stacks, and torch's record of collectives, are in RUN_DIR/hang.")


def _alerts(health: HealthRecord) -> Iterator[Content]:
    if health.alerts:
        rows: list[list[Content]] = [
            [
                utc_moment(each.time),
                each.kind,
                "" if each.step is None else f"{each.step:,}",
                element("div", {"class": "reason"}, each.text),
            ]
            for each in health.alerts
        ]
        yield element("h3", None, "Alerts that were sent")
        yield table(["When", "Kind", "Step", "Text"], rows, texts=2, words=(3,), cards=True)


def energy_section(run: RunRecord) -> Iterator[Markup]:
    """What the run has used, by what, how sure that is, and what it means for the climate."""
    if run.energy_rows:
        rows: list[list[Content]] = [[what, figure] for what, figure in run.energy_rows]
        yield section("Energy", table(["", ""], rows, texts=2))

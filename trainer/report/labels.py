"""What `banyan data labels` says of a file of annotated data: a table for people, and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from trainer.data.labels.accuracy import Accuracy, Comparison
from trainer.data.labels.agreement import Agreement, Coefficient, Disagreement
from trainer.data.labels.records import LabelFile
from trainer.data.labels.schema import SORTED_FIRST, SORTED_SECOND
from trainer.machine.terminal import one_line

WIDEST = 32  # characters of a label or name in a table
EXCERPT = 70  # characters of an item
MOST_LABELS = 30  # in a table
MOST_CONFUSED = 10
UNDEFINED = "undefined"


@dataclass(frozen=True)
class LabelReport:
    """All that was found out about a file."""

    labelled: LabelFile
    comparison: Comparison | None
    agreement: Agreement | None
    disagreements: list[Disagreement]


def label_report_as_json(report: LabelReport) -> dict[str, Any]:
    """The report as JSON has it."""
    labelled = report.labelled
    return {
        "file": str(labelled.path),
        "kind": labelled.schema.kind,
        "records": labelled.records,
        "repeated": labelled.repeated,
        "items": len({each.item for each in labelled.annotations}),
        "annotations": len(labelled.annotations),
        "annotators": labelled.annotators,
        "labels": dict(sorted(labelled.label_counts.items())),
        "problems": [asdict(problem) for problem in labelled.problems],
        "problems_in_all": labelled.wrong,
        "gold": asdict(report.comparison) if report.comparison else None,
        "agreement": asdict(report.agreement) if report.agreement else None,
        "disagreements": [asdict(each) for each in report.disagreements],
    }


def label_report_lines(report: LabelReport, most_listed: int) -> Iterator[str]:
    """The report for a terminal, with at most so many of the disagreements."""
    labelled = report.labelled
    items = len({each.item for each in labelled.annotations})
    who = f" by {len(labelled.annotators):,} annotators" if labelled.annotators else ""
    yield f"{labelled.path}: {labelled.schema.kind}, {labelled.records:,} records, {items:,} items{who}"
    if labelled.repeated:
        yield f"  {labelled.repeated:,} records say the same as an earlier one"
    yield from _labels(labelled)
    if report.comparison:
        yield from _gold(report.comparison)
    if report.agreement:
        yield from _agreement(report.agreement)
    yield from _disagreements(labelled.schema.kind, report.disagreements, most_listed)


def _labels(labelled: LabelFile) -> Iterator[str]:
    counts = labelled.label_counts
    if not counts or labelled.schema.kind == "preferences":
        return
    yield "  labels"
    rows = [[label, f"{count:,}", f"{count / counts.total():.1%}"] for label, count in counts.most_common(MOST_LABELS)]
    yield from _table([["label", "count", "share"], *rows])
    if len(counts) > MOST_LABELS:
        yield f"    and {len(counts) - MOST_LABELS:,} more labels"


def _gold(comparison: Comparison) -> Iterator[str]:
    compared = comparison.gold_items - comparison.unlabelled
    beside = f"; {comparison.unknown:,} other items aren't in it" if comparison.unknown else ""
    yield f"  against the gold set: {compared:,} of its {comparison.gold_items:,} items are labelled{beside}"
    rows = [
        [each.annotator, f"{each.items:,}", f"{each.units:,}", f"{each.accuracy:.4f}", f"{each.macro_f1:.4f}"]
        for each in comparison.accuracies
    ]
    yield from _table([["annotator", "items", "units", "accuracy", "macro F1"], *rows])
    yield from _label_scores(comparison.accuracies[0])
    yield from _entity_scores(comparison)


def _entity_scores(comparison: Comparison) -> Iterator[str]:
    """Of whole entities: everybody's by type, then each annotator's together."""
    everybody, *others = comparison.accuracies
    if everybody.entities is None:
        return
    scores = [*everybody.entities.types[:MOST_LABELS], everybody.entities.micro]
    scores += [replace(each.entities.micro, type=each.annotator) for each in others if each.entities]
    rows = [
        [each.type, f"{each.support:,}", f"{each.precision:.4f}", f"{each.recall:.4f}", f"{each.f1:.4f}"]
        for each in scores
    ]
    yield f"    whole entities: macro F1 {everybody.entities.macro_f1:.4f}"
    yield from _table([["entities", "in gold", "precision", "recall", "F1"], *rows])


def _label_scores(accuracy: Accuracy) -> Iterator[str]:
    rows = [
        [each.label, f"{each.support:,}", f"{each.precision:.4f}", f"{each.recall:.4f}", f"{each.f1:.4f}"]
        for each in sorted(accuracy.labels, key=lambda each: (-each.support, each.label))[:MOST_LABELS]
    ]
    yield from _table([["label", "in gold", "precision", "recall", "F1"], *rows])
    confused = [[gold, given, f"{count:,}"] for gold, given, count in accuracy.confused[:MOST_CONFUSED]]
    if confused:
        yield from _table([["gold", "given", "times"], *confused], texts=2)


def _agreement(agreement: Agreement) -> Iterator[str]:
    yield f"  agreement on {agreement.units:,} units that two or more labelled"
    rows = [
        [each.first, each.second, f"{each.units:,}", f"{each.equal / each.units:.4f}", _number(each.kappa)]
        for each in agreement.pairs
    ]
    yield from _table([["annotator", "and", "units", "equal", "Cohen's kappa"], *rows], texts=2)
    if agreement.pairs_left_out:
        yield f"    and {agreement.pairs_left_out:,} pairs with fewer units in common"
    if agreement.fleiss:
        yield f"    Fleiss' kappa         {_coefficient(agreement.fleiss)}"
    yield f"    Krippendorff's alpha  {_coefficient(agreement.krippendorff)}, {agreement.distance} distance"


def _coefficient(coefficient: Coefficient) -> str:
    return f"{_number(coefficient.value)}  ({coefficient.units:,} units {coefficient.of})"


def _number(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.4f}"


def _disagreements(kind: str, disagreements: Sequence[Disagreement], most_listed: int) -> Iterator[str]:
    if not disagreements:
        return
    yield f"  disagreements: {len(disagreements):,}"
    for each in disagreements[:most_listed]:
        content = json.loads(each.content)
        said, about = each.labels, each.content if isinstance(content, list | dict) else content
        if each.place is not None:
            about = content[each.place]
        elif kind == "preferences":
            responses = dict(zip((SORTED_FIRST, SORTED_SECOND), content["responses"], strict=True))
            said, about = {who: _text_of(responses[label]) for who, label in said.items()}, _text_of(content["prompt"])
        labels = ", ".join(f"{_short(who)}: {_short(label)}" for who, label in said.items())
        place = "" if each.place is None else f", token {each.place + 1:,}"
        yield f"    line {each.line:,}{place}  {labels}  | {_short(about, EXCERPT)}"
    if len(disagreements) > most_listed:
        yield f"    and {len(disagreements) - most_listed:,} more (list=N shows more, json=FILE has all)"


def _text_of(response: Any) -> str:
    """A response or prompt in words: that of its last message, if it has several."""
    if isinstance(response, list):
        response = response[-1].get("content")
    return response if isinstance(response, str) else ""


def _short(text: str, most: int = WIDEST) -> str:
    text = one_line(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _table(rows: Sequence[Sequence[str]], texts: int = 1) -> Iterator[str]:
    """Rows in columns, the first of them a heading; the first `texts` columns are texts, the others numbers."""
    short = [[_short(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in short) for column in range(len(short[0]))]
    for row in short:
        cells = [
            f"{cell:<{width}}" if column < texts else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield f"    {'  '.join(cells)}".rstrip()

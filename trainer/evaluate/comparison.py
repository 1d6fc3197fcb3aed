"""`banyan evaluate compare A B`: which differences between two evaluations are more than noise.

Both must have answered the same requests; documents are drawn again in pairs (trainer/evaluate/metrics/bootstrap.py).
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import InputError
from trainer.evaluate.metrics.bootstrap import LEVEL, Difference, compare_pairs
from trainer.evaluate.metrics.metric import METRICS, mean
from trainer.evaluate.tasks.documents import SLOW_RESAMPLES, is_number
from trainer.evaluate.tasks.results import Record, logged_samples, read_results

HEAD = ("task", "metric", "n", "A", "B", "B - A", f"{LEVEL:.0%} interval", "p", "verdict")


@dataclass(frozen=True)
class Compared:
    """A figure that both have. `difference` is None, and `why` says the reason, where chance can't be told."""

    first: Record
    second: Record
    difference: Difference | None
    why: str = ""

    @property
    def verdict(self) -> str:
        """Which is better, if that is more than noise."""
        if self.difference is None:
            return self.why
        if not self.difference.is_more_than_noise:
            return "noise"
        return "B is better" if (self.difference.value > 0) == self.first.higher_is_better else "A is better"

    def cells(self) -> tuple[str, ...]:
        """The row of a table."""
        first, second, found = self.first, self.second, self.difference
        figures = (f"{first.value:.4f}", f"{second.value:.4f}", f"{second.value - first.value:+.4f}")
        between = ("", "") if found is None else (f"{found.low:+.4f} to {found.high:+.4f}", f"{found.p:.3f}")
        return (first.task, first.metric, f"{first.n:,}", *figures, *between, self.verdict)


def compare_evaluations(first: Path, second: Path, resamples: int, seed: int = 0) -> list[Compared]:
    """Every figure that both have, in the first's order. InputError if there is none."""
    others = {(record.task, record.metric): record for record in read_results(second)}
    found = []
    for record in read_results(first):
        other = others.get((record.task, record.metric))
        if other is not None and is_number(record.value) and is_number(other.value):
            found.append(_compare(first, second, record, other, resamples, seed))
    if not found:
        raise InputError(f"{first} and {second}: they have no figure in common; evaluate both by the same tasks.")
    return found


def _compare(first: Path, second: Path, one: Record, two: Record, resamples: int, seed: int) -> Compared:
    if one.fingerprint != two.fingerprint:
        return Compared(one, two, None, "other requests")
    values = [_values(folder, record) for folder, record in ((first, one), (second, two))]
    if not all(values) or values[0].keys() != values[1].keys():
        return Compared(one, two, None, "no samples in common")
    left, right = ([each[key] for key in sorted(values[0], key=str)] for each in values)
    aggregate: Callable[[Sequence[Any]], Any] | None = None
    draws = resamples
    if not all(map(is_number, left + right)):
        metric = METRICS.get(one.metric)
        if metric is None:
            return Compared(one, two, None, "its figure isn't a mean")
        aggregate, draws = metric.aggregate, min(resamples, SLOW_RESAMPLES) if metric.slow else resamples
    elif not math.isclose(mean(left), one.value, rel_tol=1e-9):  # as lm-eval's perplexity
        return Compared(one, two, None, "its figure isn't a mean")
    return Compared(one, two, compare_pairs(left, right, aggregate, draws, seed))


def _values(folder: Path, record: Record) -> dict[Any, Any]:
    """A document's value, by document."""
    samples = logged_samples(folder, record.task)
    return {
        sample["doc_id"]: sample["metrics"][record.metric] for sample in samples if record.metric in sample["metrics"]
    }


def as_markdown(compared: Sequence[Compared]) -> str:
    """A table."""
    lines = [f"A: {compared[0].first.model}  ", f"B: {compared[0].second.model}", ""]
    lines += [_line(HEAD), _line(["---"] * len(HEAD))]
    lines += [_line([cell.replace("|", "\\|") for cell in each.cells()]) for each in compared]
    return "\n".join(lines) + "\n"


def as_html(compared: Sequence[Compared]) -> str:
    """A page of its own, with nothing from elsewhere."""
    rows = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in each.cells())}</tr>\n" for each in compared
    )
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in HEAD)
    models = f"<p>A: {html.escape(compared[0].first.model)}<br>B: {html.escape(compared[0].second.model)}</p>"
    style = "body{font:14px sans-serif}table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:4px 8px}"
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Compared</title><style>{style}</style>\n'
        f"{models}\n<table><tr>{head}</tr>\n{rows}</table></html>\n"
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

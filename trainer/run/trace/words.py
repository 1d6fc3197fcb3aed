"""A trace in lines for people."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer.data.share.shared_set import NOT_STATED
from trainer.run.trace.found import Trace, TracedRun

SHORT = 12  # characters of a fingerprint
MOST_STEPS = 12  # of a document's that are shown


def trace_lines(trace: Trace) -> Iterator[str]:
    """What was found, from documents to exports."""
    for document in trace.documents:
        licence = f"licence {document.licence or NOT_STATED}"
        place = f"{document.source}, record {document.record}"
        yield f"document    {document.xxh3}: {place}, {document.bytes:,} bytes; {licence}"
        yield f"  shard       {_shown(document.shard)}, tokens {document.start:,} to {document.stop - 1:,}"
    for each in trace.datasets:
        where = f"in {_shown(each.folder)}" if each.folder else "on this disk no more"
        counts = (
            f"; {each.documents:,} documents, {each.tokens:,} tokens, {each.shards:,} shards" if each.folder else ""
        )
        licences = f"; licences: {', '.join(each.licences) or NOT_STATED}" if each.folder else ""
        yield f"data set    {each.name} {each.fingerprint[:SHORT]} {where}{counts}{licences}"
    for run in trace.runs:
        yield from _run_lines(run)
    if not trace.runs:
        yield f"runs        none below {', '.join(trace.looked)} has trained on it"
    for problem in trace.problems:
        yield f"unread      {problem}"


def _run_lines(run: TracedRun) -> Iterator[str]:
    yield f"run         {run.name} in {_shown(run.run_dir)}, {run.state}, at step {run.step:,}"
    if run.begun_from is not None:
        yield f"  begun from  {_shown(run.begun_from)}"
    if run.problem is not None:
        yield f"  unknown     {run.problem}"
    for reading in run.readings:
        skipped = f"; no update at {_numbers(reading.skipped)}" if reading.skipped else ""
        yield (
            f"  read        {reading.xxh3[:SHORT]} at step{'s' * (len(reading.steps) > 1)} {_numbers(reading.steps)} "
            f"(positions {_numbers(reading.positions)}){skipped}"
        )
    for taken in run.takes:
        yield (
            f"  took        {taken.rows:,} rows of {taken.dataset} {taken.fingerprint[:SHORT]}, steps "
            f"{taken.first_step:,} to {taken.last_step:,}"
        )
    for checkpoint in run.checkpoints:
        yield f"  checkpoint  {_shown(checkpoint.folder)}{'' if checkpoint.whole else ' (not whole)'}"
    for export in run.exports:
        gone = "" if export.there else " (no longer there)"
        yield f"  export      {_shown(export.folder)}, {export.form}, of step {_numbers(export.steps)}{gone}"


def _numbers(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - MOST_STEPS:,} more" if len(numbers) > MOST_STEPS else ""
    return ", ".join(f"{number:,}" for number in numbers[:MOST_STEPS]) + more


def _shown(path: str) -> str:
    """A path as it would be typed here."""
    here = Path(os.path.abspath("."))
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path

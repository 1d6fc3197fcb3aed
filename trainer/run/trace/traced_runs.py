"""Runs as a trace has them: what each has read, saved and exported, and which began with another's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from trainer.checkpoint.complete import COMPLETE, describe
from trainer.checkpoint.find import find_problem
from trainer.checkpoint.folders import folder_of, list_steps
from trainer.checkpoint.lineage_file import ExportLineage, read_lineage, read_noted
from trainer.data.tokens.history import read_history
from trainer.data.tokens.manifest import Manifest
from trainer.errors import BanyanError
from trainer.run.directory import read_config
from trainer.run.run_folders import is_run
from trainer.run.status import read_status
from trainer.run.trace.found import (
    DocumentReading,
    TakenRows,
    TracedCheckpoint,
    TracedDocument,
    TracedExport,
    TracedRun,
)
from trainer.run.trace.readings import ReadRun, document_readings, rows_taken
from trainer.run.trace.survey import Survey, run_values

Concerns = Callable[[TracedRun], int | None]  # the step from which a run has to do with what is traced; None: it hasn't


def runs_after(survey: Survey, documents: Sequence[TracedDocument], concerns: Concerns) -> list[TracedRun]:
    """The runs that have read what is traced, what was saved after that; and the runs that began with such weights."""
    runs = {run_dir: traced_run(run_dir, documents, survey) for run_dir in survey.runs}
    found: dict[Path, TracedRun] = {}
    for run_dir, run in runs.items():
        if (first := concerns(run)) is not None:
            found[run_dir] = _from_step(run, first)
    for _ in runs:  # by generations
        new = {
            run_dir: run
            for run_dir, run in runs.items()
            if run_dir not in found and any(_began_with(run, each) for each in found.values())
        }
        found |= new
        if not new:
            break
    return list(found.values())


def _from_step(run: TracedRun, first: int) -> TracedRun:
    return replace(
        run,
        checkpoints=tuple(each for each in run.checkpoints if each.step >= first),
        exports=tuple(each for each in run.exports if any(step >= first for step in each.steps)),
    )


def _began_with(run: TracedRun, other: TracedRun) -> bool:
    """Whether a run's first weights are another's, by a checkpoint or an export that is traced."""
    if run.begun_from is None:
        return False
    folder, _, step = run.begun_from.partition("@")
    place = str(Path(folder).resolve())
    if place in [export.folder for export in other.exports]:
        return True
    steps = [each.step for each in other.checkpoints]
    return place == other.run_dir and (int(step) in steps if step.isdecimal() else bool(steps))


def run_before(run: TracedRun, survey: Survey) -> Path | None:
    """The run whose weights another began with, where it is on this disk."""
    if run.begun_from is None:
        return None
    folder = Path(run.begun_from.partition("@")[0])
    if folder.is_dir() and is_run(folder):
        return folder.resolve()
    lineage = read_lineage(folder)
    if lineage is None:
        return None
    return next((each for each in (Path(lineage.run_dir), *survey.runs) if has_made(each, lineage)), None)


def traced_run(
    run_dir: Path, documents: Sequence[TracedDocument], survey: Survey, *, until: int | None = None
) -> TracedRun:
    """A run, with all of its checkpoints and exports; what it has taken `until` a step, or until now."""
    values = run_values(run_dir)
    begun = values.get("checkpoint.fork_from") or values.get("model.init_from")
    takes: tuple[TakenRows, ...] = ()
    readings: tuple[DocumentReading, ...] = ()
    problem, step, state = None, until or 0, "?"
    try:
        status = read_status(run_dir)
        state, step = status.state, until if until is not None else status.step or 0
        history = read_history(run_dir)
        if history is not None and step:
            read = ReadRun(run_dir, read_config(run_dir), history, step)
            takes = tuple(rows_taken(read))
            readings = tuple(document_readings(read, documents, _by_fingerprint(survey)))
    except (BanyanError, OSError) as error:
        problem = str(error)
    checkpoints = tuple(
        TracedCheckpoint(
            each, str(folder_of(run_dir, each)), find_problem(folder_of(run_dir, each), hashes=False) is None
        )
        for each in list_steps(run_dir)
    )
    return TracedRun(
        str(values.get("run.name") or run_dir.name),
        str(run_dir),
        state,
        step,
        takes,
        readings,
        checkpoints,
        tuple(_exports(run_dir, survey)),
        str(begun) if begun else None,
        problem,
    )


def _by_fingerprint(survey: Survey) -> dict[str, Manifest]:
    return {manifest.fingerprint: manifest for manifest in survey.datasets}


def _exports(run_dir: Path, survey: Survey) -> list[TracedExport]:
    """Those that the run has noted, and those on this disk that state one of its checkpoints."""
    found = {
        each.folder: TracedExport(each.folder, each.form, each.steps, Path(each.folder).is_dir())
        for each in read_noted(run_dir)
    }
    for folder in survey.exports:
        lineage = read_lineage(folder)
        if lineage is not None and str(folder) not in found and has_made(run_dir, lineage):
            found[str(folder)] = TracedExport(str(folder), lineage.form, tuple(lineage.steps), there=True)
    return list(found.values())


def has_made(run_dir: Path, lineage: ExportLineage) -> bool:
    """Whether a run has one of the checkpoints, or had them by its name where retention has removed them."""
    for step, hashed in lineage.complete.items():
        complete = folder_of(run_dir, int(step)) / COMPLETE if step.isdecimal() else run_dir
        if complete.is_file() and describe(complete)["xxh3_128"] == hashed:
            return True
    return (
        is_run(run_dir)
        and str(run_dir) == lineage.run_dir
        and not any(folder_of(run_dir, step).is_dir() for step in lineage.steps)
    )

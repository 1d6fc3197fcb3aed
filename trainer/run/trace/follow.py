"""From what is asked for to all that came of it, and all that it came from."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from trainer.checkpoint.complete import COMPLETE, describe
from trainer.checkpoint.find import find_problem
from trainer.checkpoint.folders import folder_of, list_steps, step_of
from trainer.checkpoint.lineage_file import ExportLineage, read_lineage, read_noted
from trainer.data.share.shared_set import NOT_STATED
from trainer.data.tokens.history import read_history
from trainer.data.tokens.manifest import FILE as MANIFEST
from trainer.data.tokens.manifest import SPLITS, Manifest
from trainer.data.tokens.stored_documents import HASH, documents_with, parse_document_id
from trainer.errors import BanyanError, InputError
from trainer.run.directory import read_config
from trainer.run.run_folders import is_run
from trainer.run.status import read_status
from trainer.run.trace.found import (
    DocumentReading,
    TakenRows,
    Trace,
    TracedCheckpoint,
    TracedDocument,
    TracedExport,
    TracedRun,
    TracedSet,
)
from trainer.run.trace.readings import ReadRun, document_readings, rows_taken
from trainer.run.trace.survey import Survey, run_values

FINGERPRINT = re.compile("[0-9a-f]{4,64}")
Concerns = Callable[[TracedRun], int | None]  # the step from which a run has to do with what is traced; None: it hasn't


def trace(wanted: str, survey: Survey) -> Trace:
    """What there is of a fingerprint, a document, or a folder of data, of a run, a checkpoint or an export. InputError
    where nothing is known by that name."""
    path = Path(wanted).expanduser()
    lineage = read_lineage(path) if path.is_dir() else None
    if lineage is not None:
        return _of_export(wanted, path, lineage, survey)
    if step_of(path.resolve().name) is not None and path.is_dir():
        return _of_run(wanted, "checkpoint", path.resolve().parents[1], survey, step=step_of(path.resolve().name))
    if path.is_dir() and is_run(path):
        return _of_run(wanted, "run", path.resolve(), survey)
    if path.is_dir() and any((path / split / MANIFEST).is_file() for split in ("", *SPLITS)):
        survey.add_datasets(path)
        inside = [each for each in survey.datasets if each.folder in (path.resolve(), *_splits(path.resolve()))]
        return _of_sets(wanted, {manifest.fingerprint for manifest in inside}, survey)
    return _of_name(wanted, survey)


def _splits(folder: Path) -> list[Path]:
    return [folder / split for split in SPLITS]


def _of_name(wanted: str, survey: Survey) -> Trace:
    """Of a fingerprint, its beginning, a document's hash, or FILE:RECORD."""
    text = wanted.lower()
    if FINGERPRINT.fullmatch(text):
        known = {manifest.fingerprint for manifest in survey.datasets}
        for run_dir in survey.runs:
            known |= _fingerprints_in(run_dir)
        if found := {each for each in known if each.startswith(text)}:
            return _of_sets(wanted, found, survey)
    documents = _documents(text if HASH.fullmatch(text) else wanted, survey)
    if documents:
        return _of_documents(wanted, documents, survey)
    where = ", ".join(survey.looked)
    raise InputError(
        f"{wanted}: no data set's fingerprint, no document (its hash, or FILE:RECORD) and no folder of data, a run, a "
        f"checkpoint or an export; looked below {where}: {len(survey.datasets):,} data sets, {len(survey.runs):,} runs."
    )


def _fingerprints_in(run_dir: Path) -> set[str]:
    try:
        history = read_history(run_dir)
    except InputError:
        return set()
    segments = history.segments if history is not None else []
    return {share.fingerprint for segment in segments for share in segment.shares.values()}


def _documents(wanted: str, survey: Survey) -> list[TracedDocument]:
    found = []
    seen = set()
    for manifest in survey.datasets:
        document = parse_document_id(wanted, [name for group in manifest.sources for name in group.files])
        if document is None or (document.hash is None and not document.sources) or manifest.fingerprint in seen:
            continue
        seen.add(manifest.fingerprint)
        try:
            for number, span in documents_with(manifest, document):
                found.append(
                    TracedDocument(
                        span.xxh3,
                        manifest.source_name(span.source),
                        span.record,
                        span.bytes,
                        manifest.licence_of(span.source),
                        manifest.fingerprint,
                        str(manifest.folder / manifest.shards[number].file),
                        span.start,
                        span.stop,
                    )
                )
        except (BanyanError, OSError) as error:
            survey.problems.append(f"{manifest.folder}: its documents can't be listed ({error})")
    return found


# ------------------------------------------------------------------------------------------------------ what is asked


def _of_sets(wanted: str, fingerprints: set[str], survey: Survey) -> Trace:
    def concerns(run: TracedRun) -> int | None:
        return min((taken.first_step for taken in run.takes if taken.fingerprint in fingerprints), default=None)

    runs = [replace(run, takes=_of(run.takes, fingerprints)) for run in _runs_after(survey, [], concerns)]
    return _trace(wanted, "data set", [], fingerprints, runs, survey)


def _of(takes: Sequence[TakenRows], fingerprints: set[str]) -> tuple[TakenRows, ...]:
    return tuple(taken for taken in takes if taken.fingerprint in fingerprints)


def _of_documents(wanted: str, documents: list[TracedDocument], survey: Survey) -> Trace:
    fingerprints = {document.fingerprint for document in documents}

    def concerns(run: TracedRun) -> int | None:
        first = min((step for reading in run.readings for step in reading.steps), default=None)
        return 0 if first is None and run.problem and _of(run.takes, fingerprints) else first

    runs = [replace(run, takes=_of(run.takes, fingerprints)) for run in _runs_after(survey, documents, concerns)]
    return _trace(wanted, "document", documents, fingerprints, runs, survey)


def _of_run(wanted: str, kind: str, run_dir: Path, survey: Survey, step: int | None = None) -> Trace:
    """Of a run, or of its checkpoint of a step; with the runs that its weights came from."""
    if run_dir not in survey.runs:
        survey.runs.append(run_dir)
    runs = [_run(run_dir, [], survey, until=step)]
    while (before := _run_before(runs[-1], survey)) is not None and before not in [Path(run.run_dir) for run in runs]:
        runs.append(_run(before, [], survey))
    if step is not None:
        runs[0] = replace(
            runs[0],
            checkpoints=tuple(each for each in runs[0].checkpoints if each.step == step),
            exports=tuple(each for each in runs[0].exports if step in each.steps),
        )
    return _trace(wanted, kind, [], {taken.fingerprint for run in runs for taken in run.takes}, runs, survey)


def _of_export(wanted: str, folder: Path, lineage: ExportLineage, survey: Survey) -> Trace:
    """Of an export: the run whose checkpoints it states, by their hashes where the run has moved."""
    candidates = [Path(lineage.run_dir), *survey.runs]
    run_dir = next((each for each in candidates if _has_made(each, lineage)), None)
    if run_dir is None:
        raise InputError(
            f"{folder}: an export of {lineage.run} ({lineage.run_dir}), of steps {', '.join(map(str, lineage.steps))}; "
            f"that run isn't there, nor below {', '.join(survey.looked)}: name the folder that it is in."
        )
    found = _of_run(wanted, "export", run_dir.resolve(), survey, step=max(lineage.steps, default=None))
    export = TracedExport(str(folder.resolve()), lineage.form, tuple(lineage.steps), there=True)
    runs = (replace(found.runs[0], exports=(export,)), *found.runs[1:])
    return replace(found, runs=runs)


def _has_made(run_dir: Path, lineage: ExportLineage) -> bool:
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


def _trace(
    wanted: str,
    kind: str,
    documents: Sequence[TracedDocument],
    fingerprints: set[str],
    runs: Sequence[TracedRun],
    survey: Survey,
) -> Trace:
    sets = [_traced_set(each, survey, runs) for each in sorted(fingerprints)]
    problems = tuple(survey.problems)
    return Trace(wanted, kind, tuple(documents), tuple(sets), tuple(runs), tuple(survey.looked), problems)


def _traced_set(fingerprint: str, survey: Survey, runs: Sequence[TracedRun]) -> TracedSet:
    manifest = next((each for each in survey.datasets if each.fingerprint == fingerprint), None)
    if manifest is None:
        names = (taken.dataset for run in runs for taken in run.takes if taken.fingerprint == fingerprint)
        return TracedSet(fingerprint, next(names, "?"), None, 0, 0, 0, ())
    licences = sorted({group.licence or NOT_STATED for group in manifest.sources})
    counts = (manifest.documents, manifest.tokens, len(manifest.shards))
    return TracedSet(fingerprint, manifest.name, str(manifest.folder), *counts, tuple(licences))


# --------------------------------------------------------------------------------------------------------------- runs


def _runs_after(survey: Survey, documents: Sequence[TracedDocument], concerns: Concerns) -> list[TracedRun]:
    """The runs that have read what is traced, what was saved after that; and the runs that began with such weights."""
    runs = {run_dir: _run(run_dir, documents, survey) for run_dir in survey.runs}
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


def _run_before(run: TracedRun, survey: Survey) -> Path | None:
    """The run whose weights another began with, where it is on this disk."""
    if run.begun_from is None:
        return None
    folder = Path(run.begun_from.partition("@")[0])
    if folder.is_dir() and is_run(folder):
        return folder.resolve()
    lineage = read_lineage(folder)
    if lineage is None:
        return None
    return next((each for each in (Path(lineage.run_dir), *survey.runs) if _has_made(each, lineage)), None)


def _run(run_dir: Path, documents: Sequence[TracedDocument], survey: Survey, *, until: int | None = None) -> TracedRun:
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
        if lineage is not None and str(folder) not in found and _has_made(run_dir, lineage):
            found[str(folder)] = TracedExport(str(folder), lineage.form, tuple(lineage.steps), there=True)
    return list(found.values())

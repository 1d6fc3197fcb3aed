"""From what is asked for to all that came of it, and all that it came from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trainer.checkpoint.folders import step_of
from trainer.checkpoint.lineage_file import ExportLineage, read_lineage
from trainer.data.share.shared_set import NOT_STATED
from trainer.data.tokens.history import read_history
from trainer.data.tokens.manifest import FILE as MANIFEST
from trainer.data.tokens.manifest import SPLITS
from trainer.data.tokens.stored_documents import HASH, documents_with, parse_document_id
from trainer.errors import BanyanError, InputError
from trainer.run.run_folders import is_run
from trainer.run.trace.found import (
    TakenRows,
    Trace,
    TracedDocument,
    TracedExport,
    TracedRun,
    TracedSet,
)
from trainer.run.trace.survey import Survey
from trainer.run.trace.traced_runs import has_made, run_before, runs_after, traced_run

FINGERPRINT = re.compile("[0-9a-f]{4,64}")


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
    unread = f"; not all could be read: {survey.problems[0]}" if survey.problems else "."
    raise InputError(
        f"{wanted}: no data set's fingerprint, no document (its hash, or FILE:RECORD) and no folder of data, a run, a "
        f"checkpoint or an export; looked below {where}: {len(survey.datasets):,} data sets, {len(survey.runs):,} runs"
        f"{unread}"
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

    runs = [replace(run, takes=_of(run.takes, fingerprints)) for run in runs_after(survey, [], concerns)]
    return _trace(wanted, "data set", [], fingerprints, runs, survey)


def _of(takes: Sequence[TakenRows], fingerprints: set[str]) -> tuple[TakenRows, ...]:
    return tuple(taken for taken in takes if taken.fingerprint in fingerprints)


def _of_documents(wanted: str, documents: list[TracedDocument], survey: Survey) -> Trace:
    fingerprints = {document.fingerprint for document in documents}

    def concerns(run: TracedRun) -> int | None:
        first = min((step for reading in run.readings for step in reading.steps), default=None)
        return 0 if first is None and run.problem and _of(run.takes, fingerprints) else first

    runs = [replace(run, takes=_of(run.takes, fingerprints)) for run in runs_after(survey, documents, concerns)]
    return _trace(wanted, "document", documents, fingerprints, runs, survey)


def _of_run(wanted: str, kind: str, run_dir: Path, survey: Survey, step: int | None = None) -> Trace:
    """Of a run, or of its checkpoint of a step; with the runs that its weights came from."""
    if run_dir not in survey.runs:
        survey.runs.append(run_dir)
    runs = [traced_run(run_dir, [], survey, until=step)]
    while (before := run_before(runs[-1], survey)) is not None and before not in [Path(run.run_dir) for run in runs]:
        runs.append(traced_run(before, [], survey))
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
    run_dir = next((each for each in candidates if has_made(each, lineage)), None)
    if run_dir is None:
        raise InputError(
            f"{folder}: an export of {lineage.run} ({lineage.run_dir}), of steps {', '.join(map(str, lineage.steps))}; "
            f"that run isn't there, nor below {', '.join(survey.looked)}: name the folder that it is in."
        )
    found = _of_run(wanted, "export", run_dir.resolve(), survey, step=max(lineage.steps, default=None))
    export = TracedExport(str(folder.resolve()), lineage.form, tuple(lineage.steps), there=True)
    runs = (replace(found.runs[0], exports=(export,)), *found.runs[1:])
    return replace(found, runs=runs)


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

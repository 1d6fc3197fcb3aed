"""What became of a document of prepare's input: in which shard it is, or which rule or other document kept it out.

It is told from what lies beside the shards: their own lists of documents, documents/ where the text was cleaned
(record.py), near_duplicates/ where such were looked for, paragraphs/ where such were taken out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainer.data.clean.record import DOCUMENTS, REJECTED, read_outcomes
from trainer.data.revise.record import read_revision_record
from trainer.data.revise.rewrite import DOCUMENT_RULE
from trainer.data.text.near_dropped import read_near_record
from trainer.data.tokens.manifest import Manifest
from trainer.data.tokens.stored_documents import DocumentId, documents_with, parse_document_id
from trainer.errors import ConfigError, InputError


def find_fates(output: Path, datasets: Sequence[Manifest], wanted: str) -> list[str]:
    """A line for each document that `wanted` names, FILE:RECORD or a hash; ConfigError where that can't be."""
    names = [name for group in datasets[0].sources for name in group.files]
    document = _parse(wanted, names)
    cleaned = (output / DOCUMENTS).is_dir()
    lines = _in_outcomes(output, datasets, names, document) if cleaned else []
    if not cleaned:
        lines = _stored(output, datasets, names, document)
        if not lines:
            lines = [f"{wanted}: in no shard: rejected when it was read, or the same as an earlier document."]
    if not lines:
        raise InputError(f"{output}: no record of {wanted}: a record that holds no text, or none of this input.")
    return lines


def _parse(wanted: str, names: list[str]) -> DocumentId:
    document = parse_document_id(wanted, names)
    if document is None:
        raise ConfigError(f"id={wanted}: neither FILE:RECORD (records count from 0) nor 32 hexadecimal digits.")
    if document.hash is None and not document.sources:
        name = wanted.rpartition(":")[0]
        raise ConfigError(f"id={wanted}: no file of data.input has the name {name}; the first is {names[0]}.")
    return document


def _in_outcomes(output: Path, datasets: Sequence[Manifest], names: list[str], document: DocumentId) -> list[str]:
    """From the list of all documents that were cleaned."""
    lines = []
    for rows in read_outcomes(output):
        if document.hash is None:
            chosen = np.isin(rows["source"], document.sources) & (rows["record"] == document.record)
        else:
            high, low = int(document.hash[:16], 16), int(document.hash[16:], 16)
            chosen = (rows["high"] == np.uint64(high)) & (rows["low"] == np.uint64(low))
            chosen |= (rows["new_high"] == np.uint64(high)) & (rows["new_low"] == np.uint64(low))
        for row in rows[chosen]:
            lines.append(_line(output, datasets, names, row))
    return lines


def _line(output: Path, datasets: Sequence[Manifest], names: list[str], row: np.void) -> str:
    source, record = int(row["source"]), int(row["record"])
    place, rule = f"{names[source]}, record {record}", row["rule"].decode()
    if rule:
        sample = output / REJECTED / f"{rule}.jsonl.zst"
        kept = f"; some that were rejected so are in {sample}" if sample.exists() else ""
        return f"{place}: rejected by {rule}: {row['value']:.6g}, the limit is {row['limit']:.6g}{kept}"
    before, after = (
        f"{int(row[high]):016x}{int(row[low]):016x}" for high, low in (("high", "low"), ("new_high", "new_low"))
    )
    changed = "changed" if before != after else "as it was"
    found = _stored(output, datasets, names, DocumentId(None, (source,), record))
    if not found:
        found = [f"the same text as {line}" for line in _stored(output, datasets, names, DocumentId(after))]
    return f"{place}: {changed} by cleaning; {'; '.join(found) or 'dropped with its near or exact duplicates'}"


def _stored(output: Path, datasets: Sequence[Manifest], names: list[str], document: DocumentId) -> list[str]:
    """Of a document that was accepted when it was read."""
    taken = _taken(output, names, document)
    if taken is None:
        return _in_shards(datasets, names, document) or _near(output, names, document)
    place, line = taken
    return [f"{found}; {line}" for found in _in_shards(datasets, names, place)] or [line]


def _taken(output: Path, names: list[str], document: DocumentId) -> tuple[DocumentId, str] | None:
    """What was taken out of a document as it came before, and where in the input the document is; None if nothing."""
    rows = read_revision_record(output)
    if document.hash is None:
        rows = rows[np.isin(rows["source"], document.sources) & (rows["record"] == document.record)]
    else:
        high, low = int(document.hash[:16], 16), int(document.hash[16:], 16)
        rows = rows[(rows["high"] == np.uint64(high)) & (rows["low"] == np.uint64(low))]
    if not len(rows):
        return None
    row = rows[0]
    source, record, count = int(row["source"]), int(row["record"]), int(row["paragraphs"])
    first = f"the first in {names[int(row['first_source'])]}, record {int(row['first_record'])}"
    what = f"{int(row['taken']):,} of {count:,} paragraph{'s' * (count > 1)} ({int(row['bytes']):,} bytes)"
    place = DocumentId(None, (source,), record)
    if row["stays"]:
        return place, f"{what} were taken out, which came before, {first}"
    return place, f"{names[source]}, record {record}: rejected by {DOCUMENT_RULE}: {what} came before, {first}"


def _in_shards(datasets: Sequence[Manifest], names: list[str], document: DocumentId) -> list[str]:
    """From the lists of documents in the shards."""
    lines = []
    for manifest in datasets:
        for number, span in documents_with(manifest, document):
            place, file = f"{names[span.source]}, record {span.record}", manifest.folder / manifest.shards[number].file
            lines.append(f"{place}: in {file}, tokens {span.start:,} to {span.stop:,}")
    return lines


def _near(output: Path, names: list[str], document: DocumentId) -> list[str]:
    """From the list of documents that are near to another."""
    lines = []
    for row in read_near_record(output):
        hashed = f"{int(row['high']):016x}{int(row['low']):016x}"
        if row["stays"] or not (document.hash == hashed or document.is_at(int(row["source"]), int(row["record"]))):
            continue
        survivor = "a document of data.near.against"
        if row["survivor_source"] >= 0:
            survivor = f"{names[int(row['survivor_source'])]}, record {int(row['survivor_record'])}"
        place = f"{names[int(row['source'])]}, record {int(row['record'])}"
        lines.append(f"{place}: nearly the same as {survivor}, which stays; {int(row['size']):,} such documents")
    return lines

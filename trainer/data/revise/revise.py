"""The stages of revising what was stored, top to bottom, between finding near-duplicates and the final order.

Documents change only here once they are stored: the second store holds those that stay, and what comes after it knows
of nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trainer.config.data import Data
from trainer.data.revise.repeated import FindRepeated
from trainer.data.revise.rewrite import DOCUMENT_RULE, RewriteItem
from trainer.data.revise.survey import SurveyBucket, Wanted
from trainer.data.text.cleaning import share_of_rejected
from trainer.data.text.collect import Totals
from trainer.data.text.shuffle import Stored
from trainer.data.text.sources import Source
from trainer.data.text.workers import Map
from trainer.machine.durable import make_folder

FOLDER = "revised"  # below that of what was read
COPIES_ADDED = "rehydrate: copies added"


def is_revised(data: Data) -> bool:
    """Whether anything is asked for that changes documents after they were stored."""
    return data.repeated_paragraphs or bool(data.rehydrate)


def revise(stored: Stored, totals: Totals, sources: Sequence[Source], data: Data, spread: Map) -> Stored:
    """Stores the documents once more, without repeated paragraphs and in copies; counts what was done in `totals`."""
    store, paragraphs = stored.store, data.paragraphs if data.repeated_paragraphs else None
    wanted = Wanted(paragraphs, data.rehydrate, data.validation_fraction + data.test_fraction)
    buckets = range(store.buckets.count)
    counts = []
    for surveyed in spread(SurveyBucket(stored, wanted), buckets):
        totals.add_duplicates(surveyed.duplicates, surveyed.first_duplicate)
        counts.append(surveyed.paragraphs)
    repeated = None
    if paragraphs is not None:
        ranges = FindRepeated.ranges_for(sum(counts), paragraphs.memory_bytes)
        repeated = FindRepeated(store, tuple(counts), ranges)
        for _ in spread(repeated, range(ranges)):
            pass
    target = replace(store, folder=store.folder / FOLDER, deduplicate=False)
    make_folder(target.folder)
    share = share_of_rejected(data.clean, len(stored.items))
    rewrite = RewriteItem(stored, target, paragraphs, repeated, share)
    totals.documents = totals.bytes = 0
    for rewritten in spread(rewrite, stored.items):
        totals.documents += rewritten.documents
        totals.bytes += rewritten.bytes
        totals.copies += rewritten.copies
        totals.changed["repeated_paragraphs: documents shortened"] += rewritten.shortened
        totals.changed["repeated_paragraphs: paragraphs taken out"] += rewritten.paragraphs
        if rewritten.first_whole is not None:
            totals.rejected[DOCUMENT_RULE] += rewritten.whole
            source, record = rewritten.first_whole
            totals.first_rejected.setdefault(DOCUMENT_RULE, f"{sources[source].name}, record {record}")
    totals.changed[COPIES_ADDED] += totals.copies
    totals.changed = +totals.changed
    for item in stored.items:  # all of them are revised
        for file in range(store.buckets.files):
            store.documents_path(item, file).unlink(missing_ok=True)
        store.text_path(item).unlink(missing_ok=True)
    return Stored(target, tuple(0 for _ in stored.items))

"""The first stage of prepare: work items, small sources together or a range of a large one, → stored documents.

The note of an item is written last: where it is, the item is whole, and a restart skips it.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trainer.data.examples.read import ExampleReader
from trainer.data.text.document_store import DocumentStore, DocumentWriter
from trainer.data.text.documents import Rejected, read_documents
from trainer.data.text.filters import DUPLICATE, EMPTY
from trainer.data.text.ranges import RangeReader, SourceRange, source_ranges
from trainer.data.text.sources import Source
from trainer.data.text.workers import Work
from trainer.errors import InputError
from trainer.machine.durable import replacing, write_json
from trainer.machine.json_file import Count, Malformed, from_json, read_json

LEAST_ITEM_BYTES = 8 * 2**20
USUAL_ITEM_BYTES = 32 * 2**20  # where that leaves FEW_ITEMS at least
FEW_ITEMS, MOST_ITEMS = 64, 4096  # about


@dataclass(frozen=True)
class WorkItem:
    """Consecutive sources, or a range of one."""

    number: int
    ranges: tuple[SourceRange, ...]

    @property
    def bytes(self) -> int:
        """Size of the source files."""
        return sum(span.bytes for span in self.ranges)

    @property
    def part_of(self) -> int | None:
        """The source that this is a range of."""
        return None if self.ranges and self.ranges[0].is_whole else self.ranges[0].number


@dataclass(frozen=True)
class FirstRejected:
    """The first record that was rejected for a reason: `line` is its number in a range of a source, from 0."""

    source: str
    line: Count | None
    what: str

    def place(self, records_before: int) -> str:
        """Where it is, and what is wrong with it."""
        line = "" if self.line is None else f"line {records_before + self.line + 1}"
        return ", ".join(filter(None, (self.source, ": ".join(filter(None, (line, self.what))))))


@dataclass(frozen=True)
class Collected:
    """What became of a work item: `records` is how many numbers a range took, `documents` and `bytes` what was stored.

    `first_duplicate` is (source, record), the record as numbered in the range.
    """

    records: Count
    documents: Count
    bytes: Count
    duplicates: Count
    first_duplicate: tuple[Count, ...] | None
    rejected: dict[str, Count]
    first_rejected: dict[str, FirstRejected]
    unused: dict[str, Count]


def work_items(sources: tuple[Source, ...], text_field: str, *, whole: bool = False) -> list[WorkItem]:
    """Sources → work items: small files together, so that a million of them isn't a million items; large ones cut.

    With `whole` none is cut.
    """
    total = sum(source.bytes for source in sources)
    wanted = max(LEAST_ITEM_BYTES, min(USUAL_ITEM_BYTES, total // FEW_ITEMS), total // MOST_ITEMS)
    found: list[WorkItem] = []
    gathered: list[SourceRange] = []
    size = 0

    def end_item() -> None:
        nonlocal size
        if gathered:
            found.append(WorkItem(len(found), tuple(gathered)))
        gathered.clear()
        size = 0

    for number, source in enumerate(sources):
        ranges = [SourceRange(number, source)] if whole else source_ranges(number, source, wanted, text_field)
        if len(ranges) > 1 or (size and size + source.bytes > wanted):
            end_item()
        if len(ranges) > 1:
            found += [WorkItem(len(found) + place, (span,)) for place, span in enumerate(ranges)]
        else:
            gathered += ranges
            size += source.bytes
    end_item()
    return found


@dataclass(frozen=True)
class Collect(Work[WorkItem, Collected]):
    """Stores the documents of a work item, unless they are there already."""

    store: DocumentStore
    text_field: str
    most_bytes: int
    examples: ExampleReader | None = None  # reads the sources instead, each whole

    def note(self, item: WorkItem) -> Path:
        """Counts of an item."""
        return self.store.folder / f"read-{item.number:06d}.json"

    def __call__(self, item: WorkItem) -> Collected:
        """Reads the item's sources. InputError where one is refused."""
        note = self.note(item)
        try:
            return _checked(from_json(Collected, read_json(note)))
        except FileNotFoundError:
            pass
        except Malformed as error:
            raise self.store.unreadable(note, error) from error
        collected = self._collect(item)
        write_json(note, asdict(collected))
        return collected

    def _collect(self, item: WorkItem) -> Collected:
        store = self.store
        rejected, unused = Counter[str](), Counter[str]()
        first: dict[str, FirstRejected] = {}
        records = 0
        with ExitStack() as open_files:
            paths = [store.documents_path(item.number, file) for file in range(store.buckets.files)]
            files = [open_files.enter_context(replacing(path)) for path in paths]
            text = None if store.shuffled else open_files.enter_context(replacing(store.text_path(item.number)))
            writer = DocumentWriter(store, files, text)
            for span in item.ranges:
                reader = RangeReader(span, self.text_field, self.most_bytes, unused)
                for record, document in self.examples.read(span.source) if self.examples else reader:
                    if not isinstance(document, Rejected):
                        writer.add(span.number, record, document)
                        continue
                    rejected[document.reason] += 1
                    if document.reason not in first:
                        first[document.reason] = _first(span, record, document)
                records += reader.records
            writer.close()
        duplicates = writer.duplicates
        return Collected(
            records=records,
            documents=writer.documents,
            bytes=writer.text_bytes,
            duplicates=duplicates.count,
            first_duplicate=duplicates.first,
            rejected=dict(rejected),
            first_rejected=first,
            unused={what: count for what, count in unused.items() if count},
        )


def _first(span: SourceRange, record: int, document: Rejected) -> FirstRejected:
    if span.is_whole:
        return FirstRejected(span.source.name, None, str(document))
    return FirstRejected(span.source.name, record, str(document.at("")))


def _checked(collected: Collected) -> Collected:
    """Malformed unless the fields fit each other."""
    first = collected.first_duplicate
    if collected.first_rejected.keys() != collected.rejected.keys() or (first is not None and len(first) != 2):
        raise Malformed("its counts don't fit each other")
    return collected


@dataclass
class Totals:
    """What all work items hold together: counts, the first place of each, and where the ranges of files begin."""

    documents: int = 0
    bytes: int = 0
    duplicates: int = 0
    first_duplicate: tuple[int, int] | None = None
    rejected: Counter[str] = field(default_factory=Counter)
    first_rejected: dict[str, str] = field(default_factory=dict)
    unused: Counter[str] = field(default_factory=Counter)
    records_before: list[int] = field(default_factory=list)  # of each item: those of its file in earlier ranges
    _range_of: int | None = None
    _records: int = 0  # in the ranges of that source, so far
    _with_text: dict[int, bool] = field(default_factory=dict)  # by source of which there are ranges

    def add(self, item: WorkItem, collected: Collected) -> None:
        """Counts the next item."""
        if item.part_of is None or item.part_of != self._range_of:
            self._records = 0
        self._range_of = item.part_of
        self.records_before.append(self._records)
        self.documents += collected.documents
        self.bytes += collected.bytes
        self.rejected.update(collected.rejected)
        self.unused.update(collected.unused)
        for reason, first in collected.first_rejected.items():
            self.first_rejected.setdefault(reason, first.place(self._records))
        self.add_duplicates(collected.duplicates, collected.first_duplicate, self._records)
        if item.part_of is not None:
            text = bool(collected.documents or collected.duplicates or EMPTY in collected.rejected)
            self._with_text[item.part_of] = text or self._with_text.get(item.part_of, False)
        self._records += collected.records

    def add_duplicates(self, count: int, first: tuple[int, ...] | None, records_before: int = 0) -> None:
        """Counts documents that are dropped since an earlier one is the same."""
        self.duplicates += count
        if first is not None:
            place = first[0], first[1] + records_before
            self.first_duplicate = min(self.first_duplicate or place, place)

    def refuse_files_without_text(self, sources: tuple[Source, ...], text_field: str, most_bytes: int) -> None:
        """Refuses a file that was read in ranges and holds no text at all, as totals it in one would."""
        for number, with_text in self._with_text.items():
            if not with_text:
                for _ in read_documents(sources[number], text_field, most_bytes):
                    pass

    def tell_duplicates(self, sources: tuple[Source, ...]) -> None:
        """Counts the duplicates among the rejected, once all are known."""
        if self.first_duplicate is not None:
            source, record = self.first_duplicate
            if source >= len(sources):
                raise InputError(f"source {source:,} of {len(sources):,}: the stored documents are of another input.")
            self.rejected[DUPLICATE] += self.duplicates
            self.first_rejected[DUPLICATE] = f"{sources[source].name}, record {record}"

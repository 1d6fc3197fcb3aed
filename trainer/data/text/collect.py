"""The first stage of prepare: work items, small sources together or a part of a large one, → stored documents.

The note of an item is written last: where it is, the item is whole, and a restart skips it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trainer.data.examples.formats import from_bytes
from trainer.data.examples.labelled import labels_in
from trainer.data.examples.read import ExampleReader
from trainer.data.text.cleaning import Cleaning, cleaned
from trainer.data.text.document_store import DocumentStore, DocumentWriter
from trainer.data.text.documents import parts_of, read_documents
from trainer.data.text.filters import DUPLICATE, EMPTY
from trainer.data.text.reading import ITEM_DOMAINS, WHOLE, Account, Part, most_frequent
from trainer.data.text.records import Rejected
from trainer.data.text.sources import Source
from trainer.data.text.workers import Work
from trainer.data.tokens.manifest import MOST_LABELS
from trainer.errors import InputError
from trainer.machine.durable import replacing, write_json
from trainer.machine.json_file import Count, Malformed, from_json, read_json

LEAST_ITEM_BYTES = 8 * 2**20
USUAL_ITEM_BYTES = 32 * 2**20  # where that leaves FEW_ITEMS at least
FEW_ITEMS, MOST_ITEMS = 64, 4096  # about


@dataclass(frozen=True)
class SourcePart:
    """A source and which part of it is to be read; `number` is the source's."""

    number: int
    source: Source
    part: Part = WHOLE

    @property
    def bytes(self) -> int:
        """Its share of the source file."""
        return self.source.bytes if self.part.is_whole else self.part.bytes


@dataclass(frozen=True)
class WorkItem:
    """Consecutive sources, or a part of one."""

    number: int
    parts: tuple[SourcePart, ...]

    @property
    def bytes(self) -> int:
        """Size of the source files."""
        return sum(part.bytes for part in self.parts)

    @property
    def part_of(self) -> int | None:
        """The source that this is a part of."""
        return None if self.parts and self.parts[0].part.is_whole else self.parts[0].number


@dataclass(frozen=True)
class FirstRejected:
    """The first record that was rejected for a reason: where in its source, as Rejected says it, and what is wrong."""

    source: str
    place: str
    number: Count | None
    what: str

    def in_words(self, reason: str, records_before: int) -> str:
        """Where it is, and what is wrong with it."""
        rejected = Rejected(reason, self.what).at(self.place, self.number).later(records_before)
        return ", ".join(filter(None, (self.source, str(rejected))))


@dataclass(frozen=True)
class Collected:
    """What became of a work item: `records` is how many numbers a part took, `documents` and `bytes` what was stored.

    `first_duplicate` is (source, record), the record as numbered in the part.
    """

    records: Count
    documents: Count
    bytes: Count
    duplicates: Count
    first_duplicate: tuple[Count, ...] | None
    rejected: dict[str, Count]
    first_rejected: dict[str, FirstRejected]
    unused: dict[str, Count]
    changed: dict[str, Count]
    domains: dict[str, Count]
    labels: tuple[str, ...] = ()  # that occur in examples, where none are told


def usual_bytes(sources: tuple[Source, ...]) -> int:
    """How much of the sources a work item holds, about."""
    total = sum(source.bytes for source in sources)
    return max(LEAST_ITEM_BYTES, min(USUAL_ITEM_BYTES, total // FEW_ITEMS), total // MOST_ITEMS)


def work_items(
    sources: tuple[Source, ...], cuts: Mapping[int, Sequence[Part]] | None = None, *, whole: bool = False
) -> list[WorkItem]:
    """Sources → work items: small files together, so that a million of them isn't a million items; large ones cut.

    Where a source's `cuts` aren't given, it is cut if that can be known at once; with `whole` none is cut.
    """
    wanted = usual_bytes(sources)
    found: list[WorkItem] = []
    gathered: list[SourcePart] = []
    size = 0

    def end_item() -> None:
        nonlocal size
        if gathered:
            found.append(WorkItem(len(found), tuple(gathered)))
        gathered.clear()
        size = 0

    for number, source in enumerate(sources):
        given = (cuts or {}).get(number) or parts_of(source, wanted, at_once=True)
        parts = [SourcePart(number, source, part) for part in given]
        if len(parts) > 1 or (size and size + source.bytes > wanted):
            end_item()
        if len(parts) > 1:
            found += [WorkItem(len(found) + place, (part,)) for place, part in enumerate(parts)]
        else:
            gathered += parts
            size += source.bytes
    end_item()
    return found


@dataclass(frozen=True)
class Collect(Work[WorkItem, Collected]):
    """Stores the documents of a work item, unless they are there already."""

    store: DocumentStore
    cleaning: Cleaning | None = None
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
        rejected, account = Counter[str](), Account()
        first: dict[str, FirstRejected] = {}
        records = 0
        labels: set[str] = set()
        with ExitStack() as open_files:
            paths = [store.documents_path(item.number, file) for file in range(store.buckets.files)]
            files = [open_files.enter_context(replacing(path)) for path in paths]
            text = None if store.shuffled else open_files.enter_context(replacing(store.text_path(item.number)))
            writer = DocumentWriter(store, files, text)
            cleaner = self.cleaning and open_files.enter_context(self.cleaning.cleaner(store.folder, item.number))
            for part in item.parts:
                records_of = self.examples.read(part.source) if self.examples else None
                for record, document in records_of or read_documents(part.source, account, part.part):
                    if cleaner and not isinstance(document, Rejected):
                        document = cleaned(cleaner, part.number, record, document, account.url)
                    if not isinstance(document, Rejected):
                        writer.add(part.number, record, document)
                        if self.examples and self.examples.collects_labels:
                            labels.update(labels_in(from_bytes(document)))
                            _require_few(labels, part.source)
                        continue
                    rejected[document.reason] += 1
                    if document.reason not in first:
                        first[document.reason] = _first(part.source, document)
                records = 0 if part.part.is_whole else account.records
            writer.close()
        duplicates = writer.duplicates
        changed = account.changed + (cleaner.changes if cleaner else Counter())
        return Collected(
            records=records,
            documents=writer.documents,
            bytes=writer.text_bytes,
            duplicates=duplicates.count,
            first_duplicate=duplicates.first,
            rejected=dict(rejected),
            first_rejected=first,
            unused={what: count for what, count in account.unused.items() if count},
            changed={what: count for what, count in changed.items() if count},
            domains=most_frequent(account.domains, ITEM_DOMAINS),
            labels=tuple(sorted(labels)),
        )


def _require_few(labels: set[str], source: Source) -> None:
    if len(labels) > MOST_LABELS:
        raise InputError(
            f"{source.name}: more than {MOST_LABELS:,} different labels: the field holds something else; name the "
            "labels by data.labels, and leave other records out by data.bad_records=reject."
        )


def _first(source: Source, document: Rejected) -> FirstRejected:
    return FirstRejected(source.name, document.place, document.number, str(document.at("")))


def _checked(collected: Collected) -> Collected:
    """Malformed unless the fields fit each other."""
    first = collected.first_duplicate
    if collected.first_rejected.keys() != collected.rejected.keys() or (first is not None and len(first) != 2):
        raise Malformed("its counts don't fit each other")
    return collected


@dataclass
class Totals:
    """What all work items hold together: counts, the first place of each, and where the parts of files begin."""

    documents: int = 0
    bytes: int = 0
    duplicates: int = 0
    first_duplicate: tuple[int, int] | None = None
    rejected: Counter[str] = field(default_factory=Counter)
    first_rejected: dict[str, str] = field(default_factory=dict)
    unused: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    domains: Counter[str] = field(default_factory=Counter)
    labels: set[str] = field(default_factory=set)
    copies: int = 0  # that were added to the documents
    records_before: list[int] = field(default_factory=list)  # of each item: those of its file in earlier parts
    _part_of: int | None = None
    _records: int = 0  # in the parts of that source, so far
    _with_text: dict[int, bool] = field(default_factory=dict)  # by source of which there are parts

    def add(self, item: WorkItem, collected: Collected) -> None:
        """Counts the next item."""
        if item.part_of is None or item.part_of != self._part_of:
            self._records = 0
        self._part_of = item.part_of
        self.records_before.append(self._records)
        self.documents += collected.documents
        self.bytes += collected.bytes
        self.rejected.update(collected.rejected)
        self.unused.update(collected.unused)
        self.changed.update(collected.changed)
        self.domains.update(collected.domains)
        self.labels.update(collected.labels)
        for reason, first in collected.first_rejected.items():
            self.first_rejected.setdefault(reason, first.in_words(reason, self._records))
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

    def refuse_files_without_text(self, sources: tuple[Source, ...]) -> None:
        """Refuses a file that was read in parts and holds no text at all, as totals it in one would."""
        for number, with_text in self._with_text.items():
            if not with_text:
                for _ in read_documents(sources[number]):
                    pass

    def tell_duplicates(self, sources: tuple[Source, ...]) -> None:
        """Counts the duplicates among the rejected, once all are known."""
        if self.first_duplicate is not None:
            source, record = self.first_duplicate
            if source >= len(sources):
                raise InputError(f"source {source:,} of {len(sources):,}: the stored documents are of another input.")
            self.rejected[DUPLICATE] += self.duplicates
            self.first_rejected[DUPLICATE] = f"{sources[source].name}, record {record}"

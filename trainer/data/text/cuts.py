"""Where large files are cut into parts of which all must be read to know: tables, whose quotes may hold line ends, and
crawls, whose records have any length. Reading one costs a small share of what is then done with its text.

Each such file is a work item, so that several are read at once; what was found stays, and no restart reads it again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from trainer.data.text.collect import FEW_ITEMS, SourcePart, usual_bytes
from trainer.data.text.document_store import DocumentStore
from trainer.data.text.documents import parts_of, takes_a_pass
from trainer.data.text.reading import Part
from trainer.data.text.sources import Source
from trainer.data.text.workers import Map, Work
from trainer.machine.durable import write_json
from trainer.machine.json_file import Malformed, from_json, read_json


@dataclass(frozen=True)
class Cuts:
    """The parts of a file, in order."""

    parts: tuple[Part, ...]


@dataclass(frozen=True)
class FindCuts(Work[SourcePart, Cuts]):
    """Cuts a source into parts, unless that has been done."""

    store: DocumentStore
    wanted_bytes: int

    def note(self, item: SourcePart) -> Path:
        """The parts of a source."""
        return self.store.folder / f"cuts-{item.number:06d}.json"

    def __call__(self, item: SourcePart) -> Cuts:
        """Reads the source, without taking its texts."""
        note = self.note(item)
        try:
            return _checked(from_json(Cuts, read_json(note)))
        except FileNotFoundError:
            pass
        except Malformed as error:
            raise self.store.unreadable(note, error) from error
        cuts = Cuts(tuple(parts_of(item.source, self.wanted_bytes)))
        write_json(note, asdict(cuts))
        return cuts


def _checked(cuts: Cuts) -> Cuts:
    """Malformed unless the parts follow each other from the file's beginning to its end."""
    parts = cuts.parts
    whole = parts and parts[0].start == 0 and parts[-1].stop is None
    if not whole or any(one.stop != other.start for one, other in pairwise(parts)):
        raise Malformed("its parts aren't a whole file's")
    return cuts


def find_cuts(sources: tuple[Source, ...], store: DocumentStore, map_items: Map) -> dict[int, tuple[Part, ...]]:
    """By number, the parts of the sources that are a large share of all and must be read to be cut."""
    least = sum(source.bytes for source in sources) // FEW_ITEMS
    wanted = usual_bytes(sources)
    items = [
        SourcePart(number, source)
        for number, source in enumerate(sources)
        if takes_a_pass(source) and source.bytes >= max(2 * wanted, least)
    ]
    found = zip(items, map_items(FindCuts(store, wanted), items), strict=True)
    return {item.number: cuts.parts for item, cuts in found}

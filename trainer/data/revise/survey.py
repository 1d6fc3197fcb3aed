"""The first stage: a bucket's documents → which of them stay and in how many copies, and their paragraphs.

stays-000007.table       STAYS, sorted
paragraphs-000007.table  with data.repeated_paragraphs, the columns of COLUMNS one after the other, sorted by hash
"""

from __future__ import annotations

import struct
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from trainer.config.paragraphs import Paragraphs
from trainer.data.revise.paragraphs import digest_of, paragraphs_of
from trainer.data.text.document_store import Duplicates, hashes_of, read_texts
from trainer.data.text.filters import count_equal
from trainer.data.text.near_dropped import cluster_sizes, is_dropped, read_near_members
from trainer.data.text.shuffle import Stored
from trainer.data.text.split import held_out
from trainer.data.text.workers import Work
from trainer.machine.durable import replacing, write_json
from trainer.machine.json_file import Count, Malformed, from_json, read_json

STAYS = np.dtype([("item", "<i8"), ("offset", "<i8"), ("copies", "<i8")])
COLUMNS = ("high", "low", "source", "record", "number")  # of a paragraph: its hash, and where it is
COLUMN_BYTES = 8
_WORDS = struct.Struct(">QQ")


@dataclass(frozen=True)
class Surveyed:
    """What a bucket holds: exact duplicates, of which the first is (source, record), and paragraphs that stay."""

    duplicates: Count
    first_duplicate: tuple[Count, ...] | None
    paragraphs: Count


@dataclass(frozen=True)
class Wanted:
    """What is asked for: no paragraphs that came before, and copies by the size of clusters."""

    paragraphs: Paragraphs | None
    rehydrate: dict[int, int]
    held_out: float  # the share of documents that are held out of training, which stand once

    def copies_for(self, sizes: np.ndarray) -> np.ndarray:
        """How many copies a document of a cluster of this size becomes: that of the largest key up to it, or 1."""
        keys = np.array(sorted(self.rehydrate), np.int64)
        weights = np.array([1, *(self.rehydrate[key] for key in keys.tolist())], np.int64)
        return weights[np.searchsorted(keys, sizes, side="right")]


@dataclass(frozen=True)
class SurveyBucket(Work[int, Surveyed]):
    """Looks at the documents of a bucket, all of whose copies are in it."""

    stored: Stored
    wanted: Wanted

    def note(self, item: int) -> Path:
        """What was found."""
        return stays_path(self.stored.store.folder, item).with_suffix(".json")

    def __call__(self, item: int) -> Surveyed:
        """Reads rows, and where paragraphs are compared texts."""
        store, note = self.stored.store, self.note(item)
        try:
            return _checked(from_json(Surveyed, read_json(note)))
        except FileNotFoundError:
            pass
        except Malformed as error:
            raise store.unreadable(note, error) from error
        rows, items, kept = self.stored.bucket(item)
        duplicates = Duplicates()
        duplicates.add(rows[~kept])
        members = read_near_members(store.folder, item)
        stays = kept & ~is_dropped(rows, members)
        table = np.empty(int(stays.sum()), STAYS)
        table["item"], table["offset"], table["copies"] = items[stays], rows["offset"][stays], 1
        if self.wanted.rehydrate:
            sizes = np.maximum(count_equal(hashes_of(rows))[stays], cluster_sizes(rows[stays], members))
            trained = ~held_out(hashes_of(rows[stays]), self.wanted.held_out)
            table["copies"][trained] = self.wanted.copies_for(sizes[trained])
        with replacing(stays_path(store.folder, item)) as file:
            file.write(table[np.lexsort((table["offset"], table["item"]))].tobytes())
        paragraphs = self._write_paragraphs(item, rows[stays], items[stays]) if self.wanted.paragraphs else 0
        surveyed = Surveyed(duplicates.count, duplicates.first, paragraphs)
        write_json(note, asdict(surveyed))
        return surveyed

    def _write_paragraphs(self, bucket: int, rows: np.ndarray, items: np.ndarray) -> int:
        store, settings = self.stored.store, self.wanted.paragraphs
        assert settings is not None
        found: list[tuple[int, int, int, int, int]] = []
        places = zip(rows["source"].tolist(), rows["record"].tolist(), strict=True)
        texts = read_texts(rows, items, store.text_path_of(bucket), store)
        for (source, record), text in zip(places, texts, strict=True):
            decoded = text.pop().decode("utf-8")
            for number, paragraph in enumerate(paragraphs_of(decoded, settings)):
                if paragraph.is_compared:
                    found.append((*_WORDS.unpack(digest_of(decoded, paragraph)), source, record, number))
        table = np.array(found, np.uint64).reshape(-1, len(COLUMNS))
        found.clear()
        table = table[np.lexsort(table.T[::-1])]
        with replacing(paragraphs_path(store.folder, bucket)) as file:
            for column in table.T:
                file.write(np.ascontiguousarray(column, "<u8").tobytes())
        return len(table)


def _checked(surveyed: Surveyed) -> Surveyed:
    if surveyed.first_duplicate is not None and len(surveyed.first_duplicate) != 2:
        raise Malformed("its first place doesn't fit")
    return surveyed


def stays_path(folder: Path, bucket: int) -> Path:
    """Which documents of a bucket stay: STAYS, sorted."""
    return folder / f"stays-{bucket:06d}.table"


def paragraphs_path(folder: Path, bucket: int) -> Path:
    """The paragraphs of those."""
    return folder / f"paragraphs-{bucket:06d}.table"

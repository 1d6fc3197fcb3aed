"""An index of signed documents that is kept with an output of prepare: later data is compared with it.

near_duplicates/index.json says how they were signed; near_duplicates/signatures is uint32 (documents, places), and
near_duplicates/keys has for each band the keys, sorted, and whose they are, as signed.py does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from trainer.data.near.minhash import SEED, VERSION, Scheme, band_keys
from trainer.data.text.near_dropped import FOLDER
from trainer.errors import InputError
from trainer.machine.durable import make_folder, replacing, write_json
from trainer.machine.json_file import Count, Malformed, from_json, read_json
from trainer.machine.sealing.plaintext import map_plaintext, plaintext_size

EARLIER = 1 << 63  # numbers of documents of indices are from here on
MOST_OF_AN_INDEX = 2**48


@dataclass(frozen=True)
class IndexRecord:
    """The content of index.json."""

    version: int
    seed: int
    words: int
    bands: int
    rows: int
    documents: Count


@dataclass(frozen=True)
class NearIndex:
    """An index that was opened, number `place` of those that are compared with."""

    folder: Path
    place: int
    record: IndexRecord

    def keys(self, band: int) -> tuple[np.ndarray, np.ndarray]:
        """A band's keys, sorted, and which document each is of."""
        count = self.record.documents
        if not count:
            return np.empty(0, np.uint64), np.empty(0, np.uint32)
        path, start = self.folder / "keys", band * count * 12
        return (
            map_plaintext(path, "<u8", start, (count,)),
            map_plaintext(path, "<u4", start + 8 * count, (count,)),
        )

    def signatures(self) -> np.ndarray:
        """uint32 (documents, places)."""
        shape = (self.record.documents, self.record.bands * self.record.rows)
        return map_plaintext(self.folder / "signatures", "<u4", 0, shape) if shape[0] else np.empty(shape, "<u4")

    def number_of(self, places: np.ndarray) -> np.ndarray:
        """The numbers of its documents."""
        return places.astype(np.uint64) + np.uint64(EARLIER + self.place * MOST_OF_AN_INDEX)


def open_near_index(output: Path, place: int, scheme: Scheme) -> NearIndex:
    """The index in an output of prepare. InputError where there is none, or documents were signed otherwise."""
    folder = output / FOLDER
    try:
        record = from_json(IndexRecord, read_json(folder / "index.json"))
    except FileNotFoundError as error:
        raise InputError(
            f"data.near.against: {output} has no index; prepare it with data.near_duplicates=true data.near.index=true."
        ) from error
    except Malformed as error:
        raise InputError(f"{folder / 'index.json'}: can't be read ({error}); prepare the data again.") from error
    wanted = IndexRecord(VERSION, SEED, scheme.words, scheme.bands, scheme.rows, record.documents)
    if record != wanted:
        raise InputError(
            f"data.near.against: {output} was signed with {record.words} words, {record.bands} bands of {record.rows} "
            f"(version {record.version}); set data.near.words, bands and rows to these, or prepare it again."
        )
    index = NearIndex(folder, place, record)
    sizes = {"keys": 12 * scheme.bands * record.documents, "signatures": 4 * scheme.places * record.documents}
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file() or plaintext_size(path) != size:
            raise InputError(f"{path}: missing or cut short; prepare the data again.")
    return index


def write_near_index(output: Path, chunks: Iterable[np.ndarray], scheme: Scheme, scratch: Path) -> None:
    """Keeps these signatures, uint32 (documents, places) in each chunk. Memory: 20 bytes for each document."""
    folder = output / FOLDER
    make_folder(folder)
    count = 0
    with replacing(folder / "signatures", scratch=scratch) as file:
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk, "<u4").tobytes())
            count += len(chunk)
    shape = (count, scheme.places)
    signatures = map_plaintext(folder / "signatures", "<u4", 0, shape) if count else np.empty(shape, "<u4")
    with replacing(folder / "keys", scratch=scratch) as file:
        for band in range(scheme.bands):
            keys = band_keys(signatures, scheme, band)
            order = np.argsort(keys, kind="stable")
            file.write(keys[order].tobytes())
            file.write(order.astype("<u4").tobytes())
    record = IndexRecord(VERSION, SEED, scheme.words, scheme.bands, scheme.rows, count)
    write_json(folder / "index.json", asdict(record), scratch=scratch)

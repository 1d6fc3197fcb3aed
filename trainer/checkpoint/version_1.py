"""Checkpoints of version 1, as an index: each rank's JSON file described fragments, a safetensors tensor each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from trainer.checkpoint.complete import StoredFile
from trainer.checkpoint.index import LONGS, MOST_DIMENSIONS, VISIBLE, WORDS, Index, IndexNames, check_slice
from trainer.checkpoint.malformed import MEND, explained
from trainer.errors import InputError
from trainer.machine.bare_name import bare_name
from trainer.machine.json_file import Count, Malformed, Matching, from_json, read_json, shown
from trainer.model.partition import Slice
from trainer.model.region import Region

MOST_INDEX_BYTES = 2**30  # of a rank's JSON file: about 300 for each fragment


@dataclass(frozen=True)
class FragmentRecord:
    """A fragment as rank-NNNNN.json described it."""

    parameter: Annotated[str, Matching(VISIBLE)]
    shape: tuple[Count, ...]
    slice: Slice | None
    start: Count
    stop: Count
    kind: Annotated[str, Matching(VISIBLE)]
    file: str
    tensor: Annotated[str, Matching(VISIBLE)]

    def check(self) -> None:
        """Malformed if it isn't inside its parameter."""
        if len(self.shape) > MOST_DIMENSIONS:
            raise Malformed(f"{self.parameter} has {len(self.shape)} dimensions")
        check_slice(self.shape, self.slice)
        if not self.start <= self.stop <= Region.of_slice(self.shape, self.slice).count:
            raise Malformed(f"[{self.start}, {self.stop}) of {self.slice or 'all'} isn't inside {list(self.shape)}")


@dataclass(frozen=True)
class RankIndex:
    """The content of rank-NNNNN.json."""

    fragments: tuple[FragmentRecord, ...]
    files: dict[str, StoredFile]


def read_rank_indexes(folder: Path, files: Mapping[str, StoredFile]) -> Index:
    """The index of a checkpoint of version 1: every fragment is a part of its own. InputError or Malformed."""
    fragments: list[FragmentRecord] = []
    for name in sorted(name for name in files if name.startswith("rank-") and name.endswith(".json")):
        with explained(folder / name):
            for fragment in from_json(RankIndex, read_json(folder / name, most_bytes=MOST_INDEX_BYTES)).fragments:
                fragment.check()
                if bare_name(fragment.file, folder) not in files:
                    raise Malformed(f"{fragment.file} isn't named by COMPLETE")
                fragments.append(fragment)
    if not fragments:
        raise InputError(f"{folder}: it holds no parameter; {MEND}")
    return _index_of(fragments, files)


def _index_of(fragments: list[FragmentRecord], files: Mapping[str, StoredFile]) -> Index:
    shapes: dict[str, tuple[int, ...]] = {}
    for fragment in fragments:
        if shapes.setdefault(fragment.parameter, fragment.shape) != fragment.shape:
            raise Malformed(f"{shown(fragment.parameter)} has two shapes")
    parameters = {name: place for place, name in enumerate(shapes)}
    kinds = {kind: place for place, kind in enumerate(dict.fromkeys(fragment.kind for fragment in fragments))}
    slices = {cut: place for place, cut in enumerate(dict.fromkeys(fragment.slice for fragment in fragments))}
    held = [fragment for fragment in fragments if fragment.start < fragment.stop]
    held.sort(key=lambda each: (parameters[each.parameter], kinds[each.kind], slices[each.slice], each.start))
    count = len(held)
    columns = {name: np.zeros(count, dtype=np.int32) for name in WORDS}
    columns |= {name: np.zeros(count, dtype=np.int64) for name in LONGS}
    columns["parameter"][:] = [parameters[each.parameter] for each in held]
    columns["kind"][:] = [kinds[each.kind] for each in held]
    columns["slice"][:] = [slices[each.slice] for each in held]
    columns["start"][:] = [each.start for each in held]
    columns["size"][:] = [each.stop - each.start for each in held]
    columns["part"][:] = np.arange(count)
    columns["count"][:] = 1
    names = IndexNames(shapes, tuple(kinds), tuple(slices), tuple(dict.fromkeys(each.file for each in held)))
    return Index(names, columns, [(each.file, each.tensor) for each in held], files)

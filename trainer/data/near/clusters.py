"""The last stage: near pairs → clusters, of which one document stays: one union over all buckets.

The one that stays is in the earliest source, the longest there, and the first of these; where a document of an earlier
index is in the cluster, none stays. So it doesn't depend on who compared what.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from trainer.data.compiled import compiled
from trainer.data.near.compare import ComparePairs
from trainer.data.near.index import EARLIER
from trainer.data.near.signed import JUDGED, MOST_OF_A_BUCKET
from trainer.data.text.near_dropped import MEMBER, members_path
from trainer.data.text.workers import Work
from trainer.machine.durable import replacing, write_json
from trainer.machine.json_file import Count, Malformed, from_json, read_json


@dataclass(frozen=True)
class Clusters:
    """What all buckets add up to: `sizes` counts clusters by their documents; `first` dropped is (source, record)."""

    compared: Count
    near_pairs: Count
    dropped: Count
    first: tuple[Count, ...] | None
    sizes: dict[str, Count]


@dataclass(frozen=True)
class FindClusters(Work[str, Clusters]):
    """Joins the pairs of all buckets, in one process: its memory grows with the documents that are near to another."""

    compare: ComparePairs
    buckets: int

    def note(self, item: str) -> Path:
        """What was found."""
        return self.compare.signed.store.folder / f"near-{item}.json"

    def __call__(self, item: str) -> Clusters:
        """Writes the members of each bucket that are in a cluster."""
        store, note = self.compare.signed.store, self.note(item)
        try:
            return _checked(from_json(Clusters, read_json(note)))
        except FileNotFoundError:
            pass
        except Malformed as error:
            raise store.unreadable(note, error) from error
        pairs = np.concatenate([np.empty(0, JUDGED), *(self._judged(bucket) for bucket in range(self.buckets))])
        compared = sum(self.compare(bucket).compared for bucket in range(self.buckets))
        numbers, places = np.unique(np.concatenate([pairs["first"], pairs["second"]]), return_inverse=True)
        roots = _roots(len(numbers), places[: len(pairs)], places[len(pairs) :])
        members = self._members(numbers, roots)
        self._write(numbers, members)
        dropped = members[members["stays"] == 0]
        order = np.lexsort((dropped["record"], dropped["source"]))
        first = dropped[order[0]] if len(dropped) else None
        sizes = np.unique(members["size"][members["first_of_cluster"] == 1], return_counts=True)
        found = Clusters(
            compared,
            len(pairs),
            len(dropped),
            None if first is None else (int(first["source"]), int(first["record"])),
            {str(size): count for size, count in zip(sizes[0].tolist(), sizes[1].tolist(), strict=True)},
        )
        write_json(note, asdict(found))
        return found

    def _judged(self, bucket: int) -> np.ndarray:
        return np.array(self.compare.signed.mapped(self.compare.judged_path(bucket), JUDGED))

    def _members(self, numbers: np.ndarray, roots: np.ndarray) -> np.ndarray:
        """The new documents of all clusters: MEMBER, in the order of `numbers`, with the one that stays of each."""
        own = numbers < np.uint64(EARLIER)
        documents = self.compare.documents(numbers[own])
        earlier = np.zeros(len(numbers), bool)
        earlier[np.unique(roots[~own])] = True  # roots of clusters with a document of an index
        roots_of_own = roots[own]
        order = np.lexsort((documents["record"], -documents["length"], documents["source"], roots_of_own))
        begins = np.ones(len(order), bool)
        begins[1:] = roots_of_own[order][1:] != roots_of_own[order][:-1]
        copies = np.ones(len(numbers), np.int64)
        copies[own] = documents["copies"]
        sizes = np.zeros(len(numbers), np.int64)
        np.add.at(sizes, roots, copies)
        members = np.zeros(len(documents), MEMBER)
        for name in ("high", "low", "source", "record", "length"):
            members[name] = documents[name]
        members["size"] = sizes[roots_of_own]
        survivors = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
        members["first_of_cluster"][order] = begins
        members["stays"][order] = begins & ~earlier[roots_of_own[order]]
        members["survivor_source"][order] = np.where(earlier[roots_of_own[order]], -1, documents["source"][survivors])
        members["survivor_record"][order] = np.where(earlier[roots_of_own[order]], -1, documents["record"][survivors])
        return members

    def _write(self, numbers: np.ndarray, members: np.ndarray) -> None:
        buckets = (numbers[numbers < np.uint64(EARLIER)] // np.uint64(MOST_OF_A_BUCKET)).astype(np.int64)
        for bucket in range(self.buckets):
            chosen = members[buckets == bucket]
            chosen = chosen[np.lexsort((chosen["low"], chosen["high"]))]
            with replacing(members_path(self.compare.signed.store.folder, bucket)) as file:
                file.write(chosen.tobytes())


def _checked(clusters: Clusters) -> Clusters:
    if clusters.first is not None and len(clusters.first) != 2:
        raise Malformed("its first place doesn't fit")
    return clusters


@compiled
def _roots(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The least member of the component that each of `count` nodes is in: edges first[i] to second[i]."""
    parents = np.arange(count)
    for edge in range(len(first)):
        one, other = first[edge], second[edge]
        while parents[one] != one:
            parents[one] = parents[parents[one]]
            one = parents[one]
        while parents[other] != other:
            parents[other] = parents[parents[other]]
            other = parents[other]
        parents[max(one, other)] = min(one, other)
    for node in range(count):
        parents[node] = parents[parents[node]]
    return parents

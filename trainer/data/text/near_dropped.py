"""Which stored documents are near to another, as near/clusters.py writes it: looked up as documents are ordered."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainer.data.packed_table import read_packed_table
from trainer.machine.sealing.plaintext import read_plaintext

FOLDER, MEMBERS = "near_duplicates", "members.zst"  # beside the shards
NEAR_DUPLICATE = "near_duplicate"  # nearly the same as another document, which stays
MEMBER = np.dtype(
    [
        ("high", "<u8"),  # of the text's xxh3-128
        ("low", "<u8"),
        ("source", "<i8"),
        ("record", "<i8"),
        ("length", "<i8"),
        ("survivor_source", "<i8"),  # -1: it is in an earlier index
        ("survivor_record", "<i8"),
        ("size", "<i8"),  # documents of the cluster, exact copies included
        ("stays", "u1"),
        ("first_of_cluster", "u1"),
    ]
)


def members_path(folder: Path, bucket: int) -> Path:
    """The documents of a bucket that are in a cluster: MEMBER, sorted by hash."""
    return folder / f"near-{bucket:06d}.members"


def read_near_members(folder: Path, bucket: int) -> np.ndarray:
    """The documents of a bucket that are in a cluster; none where nobody looked for them."""
    path = members_path(folder, bucket)
    return np.frombuffer(read_plaintext(path), MEMBER) if path.exists() else np.empty(0, MEMBER)


def is_dropped(rows: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Which rows of a bucket are to go, by the hashes of their texts: (rows,) bool."""
    places = _places(rows, members)
    return (places >= 0) & (members["stays"][places] == 0) if len(members) else np.zeros(len(rows), bool)


def cluster_sizes(rows: np.ndarray, members: np.ndarray) -> np.ndarray:
    """The size of the cluster that each row of a bucket is in: (rows,) int64; 0 where it is in none."""
    places = _places(rows, members)
    return np.where(places >= 0, members["size"][places], 0) if len(members) else np.zeros(len(rows), np.int64)


def _places(rows: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Where each row's text is among a bucket's members: (rows,) int64; -1 where it isn't."""
    first = np.searchsorted(members["high"], rows["high"])
    found = np.full(len(rows), -1, np.int64)
    while True:  # several with one first half, which is next to never
        inside = first < len(members)
        same = inside.copy()
        same[inside] = members["high"][first[inside]] == rows["high"][inside]
        if not same.any():
            return found
        same[same] = members["low"][first[same]] == rows["low"][same]
        found[same] = first[same]
        first = first + 1


def read_near_record(output: Path) -> np.ndarray:
    """The documents in clusters of an output of prepare: MEMBER; none where nobody looked for them."""
    return read_packed_table(output / FOLDER / MEMBERS, MEMBER)

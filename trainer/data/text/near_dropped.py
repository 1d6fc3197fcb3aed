"""Which stored documents are near to another, as near/clusters.py writes it: looked up as documents are ordered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import zstandard

from trainer.errors import InputError

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
        ("size", "<i8"),  # documents of the cluster
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
    return np.frombuffer(path.read_bytes(), MEMBER) if path.exists() else np.empty(0, MEMBER)


def is_dropped(rows: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Which rows of a bucket are to go, by the hashes of their texts: (rows,) bool."""
    dropped = members[members["stays"] == 0]
    if not len(dropped) or not len(rows):
        return np.zeros(len(rows), bool)
    first = np.searchsorted(dropped["high"], rows["high"])
    found = np.zeros(len(rows), bool)
    while True:  # several with one first half, which is next to never
        inside = first < len(dropped)
        same = inside.copy()
        same[inside] = dropped["high"][first[inside]] == rows["high"][inside]
        if not same.any():
            return found
        found[same] |= dropped["low"][first[same]] == rows["low"][same]
        first = first + 1


def read_near_record(output: Path) -> np.ndarray:
    """The documents in clusters of an output of prepare: MEMBER; none where nobody looked for them."""
    path = output / FOLDER / MEMBERS
    if not path.exists():
        return np.empty(0, MEMBER)
    try:
        with zstandard.open(path, "rb") as file:
            return np.frombuffer(file.read(), MEMBER)
    except (OSError, ValueError, zstandard.ZstdError) as error:
        raise InputError(f"{path}: can't be read ({error}); prepare the data again.") from error

"""Where the rows of the stream begin: in each shard for itself or, of indexed tars, across all of them.

Our own shards are large and end in a rest of less than a row. Tars of others may be of any size, down to a document of
a few tokens: there a row goes on in the next tar, and only the last one's rest is in no row.
"""

from __future__ import annotations

import numpy as np

from trainer.data.tokens.manifest import Manifest
from trainer.data.tokens.order import rows_in


def rows_by_shard(manifest: Manifest, sequence_length: int) -> tuple[int, ...]:
    """How many rows begin in each shard."""
    if manifest.indexed is None:
        return tuple(rows_in(shard.tokens, sequence_length) for shard in manifest.shards)
    starts, total = _starts(manifest)
    firsts = np.minimum(-(-starts // sequence_length), rows_in(total, sequence_length))
    return tuple(np.diff(np.append(firsts, rows_in(total, sequence_length))).tolist())


def first_tokens(manifest: Manifest, sequence_length: int) -> np.ndarray:
    """The place of each shard's first row in it, in tokens: (shards,) int64."""
    if manifest.indexed is None:
        return np.zeros(len(manifest.shards), np.int64)
    return -_starts(manifest)[0] % sequence_length


def last_shards(manifest: Manifest, sequence_length: int, shards: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The shards in which rows end, whose last target included, by the shards and rows where they begin: all (n,)."""
    if manifest.indexed is None:
        return shards
    starts, _ = _starts(manifest)
    ends = (-(-starts // sequence_length)[shards] + rows + 1) * sequence_length
    return np.searchsorted(starts, ends, side="right") - 1


def every_shard(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The shards that any of these stretches has, both ends included: ascending, (shards,) int64."""
    stretches = np.unique(np.stack([first, last]), axis=1)
    return np.unique(np.concatenate([np.arange(one, two + 1) for one, two in stretches.T.tolist()]))


def _starts(manifest: Manifest) -> tuple[np.ndarray, int]:
    """The first token of each shard in all of them, (shards,) int64; and how many there are."""
    ends = np.cumsum([0, *(shard.tokens for shard in manifest.shards)], dtype=np.int64)
    return ends[:-1], int(ends[-1])

"""All stages of finding near-duplicates, top to bottom, and what is kept of it beside the shards.

near_duplicates/members.zst     the documents in clusters: MEMBER, in source order
near_duplicates/index.json …    with data.near.index, the signatures of all that stayed (index.py)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zstandard

from trainer.config.near import Near
from trainer.data.near.candidates import FindCandidates
from trainer.data.near.clusters import Clusters, FindClusters
from trainer.data.near.compare import ComparePairs
from trainer.data.near.index import open_near_index, write_near_index
from trainer.data.near.minhash import Scheme
from trainer.data.near.sign import SignBucket
from trainer.data.near.signed import SignedStore
from trainer.data.text.document_store import DocumentStore
from trainer.data.text.near_dropped import FOLDER, MEMBER, MEMBERS, is_dropped, read_near_members
from trainer.data.text.shuffle import Stored
from trainer.data.text.workers import Map
from trainer.machine.durable import make_folder, replacing


def find_near_duplicates(stored: Stored, near: Near, spread: Map, here: Map) -> Clusters:
    """Finds them all, and leaves for each bucket which documents are to go (text/near_dropped.py)."""
    scheme = Scheme(near.words, near.bands, near.rows)
    buckets = range(stored.store.buckets.count)
    counts = tuple(signed.documents for signed in spread(SignBucket(stored, scheme), buckets))
    against = tuple(
        open_near_index(Path(output).expanduser(), place, scheme) for place, output in enumerate(near.against)
    )
    documents = sum(counts) + sum(index.record.documents for index in against)
    ranges = FindCandidates.ranges_for(documents, near.memory_bytes)
    candidates = FindCandidates(SignedStore(stored.store), counts, ranges, against)
    files = scheme.bands * ranges
    for _ in spread(candidates, range(files)):
        pass
    compare = ComparePairs(candidates, files, scheme, near.similarity)
    for _ in spread(compare, buckets):
        pass
    (clusters,) = here(FindClusters(compare, len(buckets)), ["clusters"])
    return clusters


def write_near_record(output: Path, store: DocumentStore, near: Near) -> None:
    """Keeps what was found beside the shards."""
    make_folder(output / FOLDER)
    buckets = range(store.buckets.count)
    members = np.concatenate([np.empty(0, MEMBER), *(read_near_members(store.folder, bucket) for bucket in buckets)])
    members = members[np.lexsort((members["record"], members["source"]))]
    with replacing(output / FOLDER / MEMBERS, scratch=store.folder) as file:
        file.write(zstandard.ZstdCompressor(level=3).compress(members.tobytes()))
    if near.index:
        scheme = Scheme(near.words, near.bands, near.rows)
        write_near_index(output, _kept_signatures(store, scheme), scheme, store.folder)


def _kept_signatures(store: DocumentStore, scheme: Scheme) -> Iterator[np.ndarray]:
    signed = SignedStore(store)
    for bucket in range(store.buckets.count):
        stays = ~is_dropped(signed.documents(bucket), read_near_members(store.folder, bucket))
        yield signed.signatures(bucket, scheme.places)[stays]

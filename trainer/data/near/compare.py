"""The third stage: pairs → those that are near, by the exact Jaccard similarity of their shingles.

A pair belongs to the bucket of its second document. A document of an earlier index has no text any more: there the
signatures estimate the similarity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from trainer.data.near.candidates import FindCandidates, unique_pairs
from trainer.data.near.index import EARLIER, MOST_OF_AN_INDEX, NearIndex
from trainer.data.near.minhash import Scheme, estimated, jaccard, shingles
from trainer.data.near.signed import JUDGED, MOST_OF_A_BUCKET, PAIR, SignedStore
from trainer.data.text.document_store import read_texts
from trainer.data.text.workers import Work
from trainer.machine.durable import replacing, write_json
from trainer.machine.json_file import Count, Malformed, from_json, read_json

RUN_BYTES = 64 * 2**20  # of texts whose shingles are in memory together, about


@dataclass(frozen=True)
class ComparedPairs:
    """How many pairs of a bucket were compared, and how many are near."""

    compared: Count
    near: Count


@dataclass(frozen=True)
class ComparePairs(Work[int, ComparedPairs]):
    """Compares the pairs of a bucket."""

    candidates: FindCandidates
    pair_files: int
    scheme: Scheme
    similarity: float

    @property
    def signed(self) -> SignedStore:
        """Where the documents are."""
        return self.candidates.signed

    def judged_path(self, item: int) -> Path:
        """The near pairs of a bucket: JUDGED."""
        return self.signed.store.folder / f"near-judged-{item:06d}.pairs"

    def note(self, item: int) -> Path:
        """How many there are."""
        return self.judged_path(item).with_suffix(".json")

    def __call__(self, item: int) -> ComparedPairs:
        """Reads the texts of the pairs."""
        note = self.note(item)
        try:
            return from_json(ComparedPairs, read_json(note))
        except FileNotFoundError:
            pass
        except Malformed as error:
            raise self.signed.store.unreadable(note, error) from error
        pairs = self._pairs_of(item)
        judged = np.empty(len(pairs), JUDGED)
        judged["first"], judged["second"] = pairs["first"], pairs["second"]
        judged["similarity"] = self._similarities(pairs, item)
        near = judged[judged["similarity"] >= np.float32(self.similarity)]
        with replacing(self.judged_path(item)) as file:
            file.write(near.tobytes())
        written = ComparedPairs(len(pairs), len(near))
        write_json(note, asdict(written))
        return written

    def _pairs_of(self, bucket: int) -> np.ndarray:
        """The pairs whose second document is in a bucket, each once."""
        low, high = np.uint64(bucket * MOST_OF_A_BUCKET), np.uint64((bucket + 1) * MOST_OF_A_BUCKET)
        found = [np.empty(0, PAIR)]
        for number in range(self.pair_files):
            pairs = self.signed.mapped(self.candidates.pairs_path(number), PAIR)
            found.append(np.array(pairs[(pairs["second"] >= low) & (pairs["second"] < high)]))
        return unique_pairs(np.concatenate(found))

    def _similarities(self, pairs: np.ndarray, bucket: int) -> np.ndarray:
        similarities = np.ones(len(pairs), np.float32)
        if self.similarity == 0:
            return similarities
        earlier = pairs["first"] >= np.uint64(EARLIER)
        similarities[earlier] = self._estimated(pairs[earlier], bucket)
        own = np.flatnonzero(~earlier)
        for run in self._runs(pairs[own]):
            similarities[own[run]] = self._exact(pairs[own[run]])
        return similarities

    def _estimated(self, pairs: np.ndarray, bucket: int) -> np.ndarray:
        """Similarities to documents of earlier indices."""
        signatures = self.signed.signatures(bucket, self.scheme.places)
        second = (pairs["second"] - np.uint64(bucket * MOST_OF_A_BUCKET)).astype(np.int64)
        numbers = pairs["first"] - np.uint64(EARLIER)
        places = (numbers % np.uint64(MOST_OF_AN_INDEX)).astype(np.int64)
        indices = (numbers // np.uint64(MOST_OF_AN_INDEX)).astype(np.int64)
        found = np.empty(len(pairs), np.float32)
        for index in self.candidates.against:
            chosen = indices == index.place
            found[chosen] = estimated(_of(index)[places[chosen]], signatures[second[chosen]])
        return found

    def _runs(self, pairs: np.ndarray) -> Iterator[np.ndarray]:
        """Places of pairs whose texts are compared together."""
        lengths = self.documents(pairs["first"])["length"] + self.documents(pairs["second"])["length"]
        groups = np.cumsum(lengths) // RUN_BYTES
        yield from np.split(np.arange(len(pairs)), np.flatnonzero(np.diff(groups)) + 1) if len(pairs) else ()

    def documents(self, numbers: np.ndarray) -> np.ndarray:
        """The documents with these numbers."""
        buckets = (numbers // np.uint64(MOST_OF_A_BUCKET)).astype(np.int64)
        places = (numbers % np.uint64(MOST_OF_A_BUCKET)).astype(np.int64)
        found = np.empty(len(numbers), self.signed.documents(0).dtype)
        for bucket in np.unique(buckets).tolist():
            chosen = buckets == bucket
            found[chosen] = self.signed.documents(bucket)[places[chosen]]
        return found

    def _exact(self, pairs: np.ndarray) -> list[float]:
        numbers = np.unique(np.concatenate([pairs["first"], pairs["second"]]))
        documents = self.documents(numbers)
        buckets = (numbers // np.uint64(MOST_OF_A_BUCKET)).astype(np.int64)
        store = self.signed.store
        files = np.array(
            [
                item * store.buckets.files + store.buckets.file_of(bucket)
                for item, bucket in zip(documents["item"].tolist(), buckets.tolist(), strict=True)
            ],
            np.int64,
        )
        texts = read_texts(documents, files, self._text_path, store)
        sets = {
            number: shingles(text.pop().decode("utf-8"), self.scheme.words)
            for number, text in zip(numbers.tolist(), texts, strict=True)
        }
        return [jaccard(sets[first], sets[second]) for first, second in pairs.tolist()]

    def _text_path(self, file: int) -> Path:
        store = self.signed.store
        item, number = divmod(file, store.buckets.files)
        return store.documents_path(item, number) if store.shuffled else store.text_path(item)


def _of(index: NearIndex) -> np.ndarray:
    return index.signatures()

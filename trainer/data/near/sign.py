"""The first stage: stored documents of a bucket → signatures and band keys."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from trainer.data.near.minhash import Scheme, band_keys, signature
from trainer.data.near.signed import SIGNED, SignedStore
from trainer.data.text.document_store import hashes_of, read_texts
from trainer.data.text.filters import count_equal
from trainer.data.text.shuffle import Stored
from trainer.data.text.workers import Work
from trainer.machine.durable import replacing, write_json
from trainer.machine.json_file import Count, Malformed, from_json, read_json


@dataclass(frozen=True)
class SignedBucket:
    """How many documents of a bucket were signed."""

    documents: Count


@dataclass(frozen=True)
class SignBucket(Work[int, SignedBucket]):
    """Signs the documents of a bucket: those with a letter or a digit, each text once."""

    stored: Stored
    scheme: Scheme

    def note(self, item: int) -> Path:
        """How many there are."""
        return SignedStore(self.stored.store).path(item, "json")

    def __call__(self, item: int) -> SignedBucket:
        """Reads the bucket's texts."""
        store, note = self.stored.store, self.note(item)
        try:
            return from_json(SignedBucket, read_json(note))
        except FileNotFoundError:
            pass
        except Malformed as error:
            raise store.unreadable(note, error) from error
        rows, items, kept = self.stored.bucket(item)
        copies = count_equal(hashes_of(rows))[kept]
        rows, items = rows[kept], items[kept]
        documents = np.empty(len(rows), SIGNED)
        for name in ("high", "low", "source", "record", "offset", "length"):
            documents[name] = rows[name]
        documents["item"], documents["copies"] = items, copies
        signatures = np.empty((len(rows), self.scheme.places), "<u4")
        signed = np.zeros(len(rows), bool)
        for place, text in enumerate(read_texts(rows, items, store.text_path_of(item), store)):
            minima = signature(text.pop().decode("utf-8"), self.scheme)
            if minima is not None:
                signatures[place], signed[place] = minima, True
        documents, signatures = documents[signed], signatures[signed]
        self._write(item, documents, signatures)
        written = SignedBucket(len(documents))
        write_json(note, asdict(written))
        return written

    def _write(self, bucket: int, documents: np.ndarray, signatures: np.ndarray) -> None:
        signed = SignedStore(self.stored.store)
        with replacing(signed.path(bucket, "documents")) as file:
            file.write(documents.tobytes())
        with replacing(signed.path(bucket, "signatures")) as file:
            file.write(signatures.tobytes())
        with replacing(signed.path(bucket, "keys")) as file:
            for band in range(self.scheme.bands):
                keys = band_keys(signatures, self.scheme, band)
                order = np.argsort(keys, kind="stable")
                file.write(keys[order].tobytes())
                file.write(order.astype("<u4").tobytes())

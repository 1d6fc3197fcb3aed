"""Looks at the documents of token shards: all lengths, and where documents came from, of all or of even samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.data.tokens.manifest import Manifest
from trainer.data.tokens.shards import Shards
from trainer.report.data_card.card import LengthCounts

MOST_LOOKED_AT = 100_000  # documents of a split whose origin is looked at; they are in blocks at even distances
QUANTILES = (("shortest", 0.0), ("10 %", 0.1), ("median", 0.5), ("90 %", 0.9), ("99 %", 0.99), ("longest", 1.0))


@dataclass(frozen=True)
class SeenDocument:
    """A document, and its tokens without the end-of-text one."""

    source: int
    record: int
    bytes: int
    tokens: np.ndarray

    @property
    def token_count(self) -> int:
        """Tokens, the end-of-text one included."""
        return len(self.tokens) + 1


def count_lengths(manifests: Sequence[Manifest]) -> LengthCounts | None:
    """The lengths of all documents in tokens, end-of-text included; None if there is no document."""
    counts: Counter[int] = Counter()
    for manifest in manifests:
        for reader in Shards(manifest):
            values, times = np.unique(reader.lengths(), return_counts=True)
            for value, count in zip(values.tolist(), times.tolist(), strict=True):
                counts[value] += count
    if not counts:
        return None
    lengths = np.array(sorted(counts), np.int64)
    ends = np.cumsum([counts[length] for length in lengths.tolist()])
    total = int(ends[-1])
    places = [min(total - 1, int(share * total)) for _, share in QUANTILES]
    quantiles = [int(lengths[np.searchsorted(ends, place, side="right")]) for place in places]
    bins: Counter[int] = Counter()
    for length, count in counts.items():
        bins[length.bit_length() - 1] += count
    return LengthCounts(
        bins=tuple((2**power, bins[power]) for power in range(min(bins), max(bins) + 1)),
        quantiles=tuple((name, length) for (name, _), length in zip(QUANTILES, quantiles, strict=True)),
        mean=sum(length * count for length, count in counts.items()) / total,
    )


def seen_documents(manifest: Manifest, most: int = MOST_LOOKED_AT) -> Iterator[SeenDocument]:
    """The documents of a dataset; of one with more than `most` those of every n-th block, so that there are fewer."""
    stride = max(1, -(-manifest.documents // most))
    before = 0
    for reader in Shards(manifest):
        blocks = range(-before % stride, len(reader.index), stride)
        before += len(reader.index)
        for block in blocks:
            for document, tokens in reader.block(block).each_document():
                yield SeenDocument(document.source, document.record, document.bytes, tokens)

"""What a data card says. A part that prepared data doesn't tell of is None or empty, and left out."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class CardSplit:
    """One split, counted."""

    name: str
    documents: int
    tokens: int
    bytes: int
    shards: int
    fingerprint: str


@dataclass(frozen=True)
class RemovedByRule:
    """Documents that a rule took out; `tokens` is None if nothing was kept to tell by, else exact or an estimate."""

    rule: str
    documents: int
    tokens: int | None = None
    exact: bool = False


@dataclass(frozen=True)
class FunnelStage:
    """A stage, the rules by which it took documents out, and how many were left after it."""

    name: str
    rules: tuple[RemovedByRule, ...]
    left: int

    @property
    def documents(self) -> int:
        """How many it took out."""
        return sum(rule.documents for rule in self.rules)


@dataclass(frozen=True)
class TextShare:
    """Documents of one source, or of one language; estimated where only a sample of the documents was looked at."""

    documents: int
    tokens: int
    bytes: int

    @property
    def tokens_per_byte(self) -> float:
        """Tokens for a byte of text."""
        return self.tokens / self.bytes if self.bytes else 0.0


@dataclass(frozen=True)
class CardSource:
    """An input of prepare."""

    input: str
    files: int
    licence: str | None
    language: str | None
    share: TextShare


@dataclass(frozen=True)
class LengthCounts:
    """Documents by tokens: `bins` are (power of two, documents of that length and up to twice that)."""

    bins: tuple[tuple[int, int], ...]
    quantiles: tuple[tuple[str, int], ...]
    mean: float


@dataclass(frozen=True)
class KeptSample:
    """A document that was kept, or its beginning."""

    source: str
    record: int
    bytes: int
    tokens: int
    text: str
    is_cut: bool


@dataclass(frozen=True)
class RejectedSample:
    """A document that a rule took out, or its beginning."""

    rule: str
    value: float
    limit: float
    detail: str
    source: str
    record: int
    text: str
    is_cut: bool


@dataclass(frozen=True)
class ClusterSize:
    """Clusters of near-duplicates of so many documents; what stays of one stands `copies` times."""

    documents: int
    clusters: int
    copies: int


@dataclass(frozen=True)
class DataCard:
    """All that is said of a folder of prepared data. `looked_at` documents were counted by source and language."""

    name: str
    splits: tuple[CardSplit, ...]
    documents_read: int
    copies_added: int  # by the sizes of clusters
    funnel: tuple[FunnelStage, ...]
    sources: tuple[CardSource, ...]
    looked_at: int
    languages: tuple[tuple[str, TextShare], ...]
    language_documents: int
    lengths: LengthCounts | None
    domains: tuple[tuple[str, int], ...]
    clusters: tuple[ClusterSize, ...]
    changed: tuple[tuple[str, int], ...]
    kept: tuple[KeptSample, ...]
    rejected: tuple[RejectedSample, ...]
    tokenizer: str
    vocabulary: int
    dtype: str
    command: str
    version: str
    time: str
    settings: tuple[tuple[str, str], ...] = field(default=())

    @property
    def documents(self) -> int:
        """Documents of all splits."""
        return sum(split.documents for split in self.splits)

    @property
    def distinct(self) -> int:
        """Documents of all splits, without the copies that were added."""
        return self.documents - self.copies_added

    @property
    def tokens(self) -> int:
        """Tokens of all splits."""
        return sum(split.tokens for split in self.splits)

    @property
    def bytes(self) -> int:
        """Bytes of text of all splits."""
        return sum(split.bytes for split in self.splits)

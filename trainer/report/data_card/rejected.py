"""What prepare kept of what it rejected: rejected/RULE.jsonl.zst beside the splits, a bounded sample of each rule."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

from trainer.data.tokens.tokenizer import Tokenizer
from trainer.errors import InputError
from trainer.machine.json_file import Count, Malformed, from_known, open_regular, parse_json
from trainer.report.data_card.card import RejectedSample

FOLDER = "rejected"
MOST_LINE = 2**26  # bytes
MOST_TOKENISED = 2**18  # bytes of text of a rule, by which its tokens are told
MOST_READ = 2**28  # bytes of text of a rule
SHOWN_OF_RULE = 2  # documents


@dataclass(frozen=True)
class RejectedRecord:
    """A line of rejected/RULE.jsonl.zst."""

    rule: str
    text: str
    value: float = 0.0
    limit: float = 0.0
    detail: str = ""
    source: str = ""
    record: Count = 0
    cut_from_bytes: Count | None = None


@dataclass
class RejectedRule:
    """What was kept of a rule: how many documents, their bytes (before they were cut), and tokens of the first ones."""

    documents: int
    bytes: int
    tokens: int  # of all that was tokenised, end-of-text ones not included
    tokenised: int  # bytes
    first: list[RejectedRecord]

    def tokens_of(self, documents: int) -> int:
        """The tokens of so many documents that this rule took out, by those that were kept."""
        if not self.documents:
            return 0
        return round(documents * (1 + self.tokens / max(1, self.tokenised) * self.bytes / self.documents))

    def is_whole_of(self, documents: int) -> bool:
        """Whether all these documents were kept, whole, and tokenised."""
        return documents == self.documents and self.bytes == self.tokenised


def read_rejected(output: Path, tokenizer: Tokenizer) -> dict[str, RejectedRule]:
    """The rules of which documents were kept, by name; none where prepare kept none."""
    found = {}
    for path in sorted((output / FOLDER).glob("*.jsonl.zst")):
        records = list(_records(path))
        if records:
            found[records[0].rule] = _summarise(records, tokenizer)
    return found


def _records(path: Path) -> Iterator[RejectedRecord]:
    try:
        read = 0
        with open_regular(path) as packed:
            lines = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True))
            while (line := lines.readline(MOST_LINE)) and read < MOST_READ:
                read += len(line)
                yield from_known(RejectedRecord, parse_json(line))
    except (OSError, EOFError, zstandard.ZstdError, Malformed) as error:
        raise InputError(f"{path}: can't be read ({error}); prepare the data again, or remove it.") from error


def _summarise(records: list[RejectedRecord], tokenizer: Tokenizer) -> RejectedRule:
    bytes_of = [record.cut_from_bytes or len(record.text.encode(errors="replace")) for record in records]
    tokens = tokenised = 0
    for record in records:
        if tokenised >= MOST_TOKENISED:
            break
        text = record.text[:MOST_TOKENISED]
        tokens += len(tokenizer.encode(text))
        tokenised += len(text.encode(errors="replace"))
    return RejectedRule(len(records), sum(bytes_of), tokens, tokenised, records[:SHOWN_OF_RULE])


def samples_of(rules: dict[str, RejectedRule], most_characters: int) -> Iterator[RejectedSample]:
    """The first documents of each rule."""
    for name in sorted(rules):
        for record in rules[name].first:
            yield RejectedSample(
                rule=record.rule,
                value=record.value,
                limit=record.limit,
                detail=record.detail,
                source=record.source,
                record=record.record,
                text=record.text[:most_characters],
                is_cut=len(record.text) > most_characters or record.cut_from_bytes is not None,
            )

"""A tar that others wrote → its index. A work item is one tar: a kill costs those that are under way."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.text.encoder_choice import CHECKED_BYTES, EncoderChoice, check_loss
from trainer.data.text.file_names import escape
from trainer.data.text.files import open_file
from trainer.data.text.reading import Account
from trainer.data.text.records import RecordTally, Rejected
from trainer.data.text.remote import is_remote, status_of
from trainer.data.text.sources import Source
from trainer.data.text.workers import Work
from trainer.data.tokens.encoder import Encoder, try_tokenizer
from trainer.data.tokens.manifest import IndexedFile, Shard
from trainer.data.tokens.tokenizer import Tokenizer, load_tokenizer
from trainer.data.tokens.training_text import whole_characters
from trainer.data.web.columns import ColumnWriter
from trainer.data.web.members import FoundDocument, read_members_of
from trainer.data.web.reader import encode_document, hash_content, hash_ids
from trainer.errors import InputError
from trainer.machine.durable import write_json
from trainer.machine.json_file import Count, Malformed, from_json, read_json

TRIED_TARS = 8  # of which the tokenizer is tried on some text


@dataclass(frozen=True)
class TarItem:
    """A work item: the tar, its number, and how many records a manifest of its makers says that it has."""

    number: int
    source: Source
    expected: int | None = None


@dataclass(frozen=True)
class IndexedShard:
    """What became of a tar: its shard of the manifest, and an account of its records, with the first of each reason."""

    shard: Shard
    records: Count
    stored_tokens: Count  # documents that are tokens already
    rejected: dict[str, Count] = field(default_factory=dict)
    first_rejected: dict[str, str] = field(default_factory=dict)
    unused: dict[str, Count] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As a note has it."""
        return {**asdict(self), "shard": self.shard.to_json()}


@dataclass(frozen=True)
class TryEncoder(Work[str, EncoderChoice]):
    """Tries the tokenizer on texts of the first tars: who encodes, and whether they come back."""

    partial: Path
    tokenizer: Tokenizer
    items: tuple[TarItem, ...]
    allow_loss: bool

    def note(self, item: str) -> Path:
        """Who encodes, and why."""
        return self.partial / f"{item}.json"

    def __call__(self, item: str) -> EncoderChoice:
        """Reads the sample. InputError where the tokenizer can't say most of it."""
        try:
            return from_json(EncoderChoice, read_json(self.note(item)))
        except FileNotFoundError:
            pass
        self.tokenizer.save(self.partial / "tokenizer")
        texts = list(self._sample())
        trial = try_tokenizer(self.tokenizer, texts)
        check_loss(self.tokenizer, trial.loss, allow=self.allow_loss)
        choice = EncoderChoice(trial.engine, trial.why if texts else "the documents are tokens")
        write_json(self.note(item), asdict(choice))
        return choice

    def _sample(self) -> Iterator[bytes]:
        left = CHECKED_BYTES
        for record in chain.from_iterable(map(_records_of, self.items[:TRIED_TARS])):
            if isinstance(record, FoundDocument) and isinstance(record.content, bytes):
                yield whole_characters(record.content[:left])
                left -= len(record.content)
            elif isinstance(record, FoundDocument):
                left -= 2 * len(record.content)
            if left <= 0:
                return


def _records_of(item: TarItem) -> Iterator[FoundDocument | Rejected]:
    with open_file(item.source.address) as file:
        yield from read_members_of(file, item.source.address, item.source.reading, Account())


@dataclass(frozen=True)
class IndexTar(Work[TarItem, IndexedShard]):
    """Writes the index of a tar to `output`, unless it is there."""

    output: Path
    partial: Path
    end_of_text: str
    vocab_size: int
    engine: str

    def note(self, item: TarItem) -> Path:
        """What became of it."""
        return self.partial / f"index-{item.number:06d}.json"

    def __call__(self, item: TarItem) -> IndexedShard:
        """Reads the tar from its beginning to its end."""
        path = self.output / f"shard-{item.number:06d}.index"
        try:
            if path.is_file():
                return from_json(IndexedShard, read_json(self.note(item)))
        except FileNotFoundError:
            pass
        except Malformed as error:
            raise InputError(f"{self.note(item)}: {error}; remove {self.partial}, and run it again.") from error
        indexed = self.read(item, path)
        write_json(self.note(item), indexed.to_json())
        return indexed

    def read(self, item: TarItem, path: Path) -> IndexedShard:
        """Reads a tar and writes its index to `path`."""
        source, account, tally, columns = item.source, Account(), RecordTally(), ColumnWriter()
        encoder = _encoder(self.partial / "tokenizer", self.end_of_text, self.engine)
        text_bytes = records = stored = 0
        rejected: Counter[str] = Counter()
        first: dict[str, str] = {}
        with open_file(source.address) as file:
            for record in read_members_of(file, source.address, source.reading, account):
                if isinstance(record, Rejected):
                    rejected[record.reason] += 1
                    first.setdefault(record.reason, f"{source.name}, {record}")
                    tally.add(record)
                else:
                    size = self._add(columns, records, record, source, encoder)
                    text_bytes += size
                    stored += isinstance(record.content, np.ndarray)
                records += 1
        _check_records(item, records, tally, documents=records - rejected.total())
        _check_unchanged(source)
        sha256 = columns.write(path, self.partial)
        shard = Shard(
            file=path.name,
            bytes=source.bytes,
            sha256=sha256,
            tokens=columns.tokens,
            documents=records - rejected.total(),
            text_bytes=text_bytes,
            index_sha256=sha256,
            indexed=IndexedFile(absolute_address(source.address), str(source.modified_ns)),
        )
        return IndexedShard(shard, records, stored, dict(rejected), first, dict(account.unused))

    def _add(self, columns: ColumnWriter, number: int, record: FoundDocument, source: Source, encoder: Encoder) -> int:
        """Adds a document to the index; its bytes of text."""
        ids, tokens = encode_document(record.content, encoder)
        stored = record.content if isinstance(record.content, np.ndarray) else None
        if stored is not None and (stored.min() < 0 or stored.max() >= self.vocab_size):
            wrong = next(token for token in stored.tolist() if not 0 <= token < self.vocab_size)
            raise InputError(
                f"{escape(source.address)}: record {number:,} holds the token {wrong}, and data.tokenizer.path has "
                f"{self.vocab_size:,}: name the tokenizer that the tokens were made with."
            )
        size = 0 if stored is not None else len(record.content)
        high, low = hash_content(record.content)
        columns.add(len(tokens), record.offset, record.size, record.kind, number, size, high, low, hash_ids(ids))
        return size


def absolute_address(address: str) -> str:
    """An address that means the same from other folders."""
    return address if is_remote(address) else os.path.abspath(address)


def _check_records(item: TarItem, records: int, tally: RecordTally, *, documents: int) -> None:
    """Refuses a tar without documents, and one that has more or fewer records than its makers say."""
    address = escape(item.source.address)
    if not records:
        raise InputError(f"{address}: the archive holds no file; leave it out, or write it again.")
    if not documents:
        raise InputError(
            f"{address}: no sample has a document in a member .{item.source.reading.text_field}, .txt, .json, .jsonl "
            f"or .npy ({tally or 'all are empty'}): name another by data.text_field, or leave the tar out."
        )
    if item.expected is not None and item.expected != records:
        raise InputError(
            f"{address}: {records:,} sequences, {item.expected:,} by the manifest that names it: fetch it again."
        )


def _check_unchanged(source: Source) -> None:
    """Refuses a tar that was written to while it was read, or since its size and time were noted."""
    if is_remote(source.address):
        status = status_of(source.address)
        found = status.bytes or 0, status.version
    else:
        stat = os.stat(source.address)
        found = stat.st_size, stat.st_mtime_ns
    if found != (source.bytes, source.modified_ns):
        raise InputError(f"{escape(source.address)}: it changed while it was indexed; run the same command again.")


@lru_cache(maxsize=1)
def _encoder(tokenizer: Path, end_of_text: str, engine: str) -> Encoder:
    """The encoder of this process, loaded once."""
    return Encoder(load_tokenizer(tokenizer, end_of_text), engine)

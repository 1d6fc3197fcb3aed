"""manifest.json: what a dataset of token shards is, counted and hashed."""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

from trainer.data.tokens.block_members import LABEL, TAGS, check_widths
from trainer.data.tokens.modalities import CodeRange, find_ranges, ranges_as_json
from trainer.errors import InputError
from trainer.machine.bare_name import bare_name
from trainer.machine.durable import write_json
from trainer.machine.json_file import Count, Malformed, Sha256, Within, from_known, read_json, shown
from trainer.machine.sealing.data_key import WrappedKey
from trainer.machine.sealing.keyring import KEYRING

FILE = "manifest.json"
SPLITS = ("train", "validation", "test")  # folders in an output of prepare
FORMAT = "banyan-token-shards"
VERSION = 4  # of shards whose blocks have more members (block_members.py)
TARGETS_VERSION = 3  # of shards that say which tokens are targets
PLAIN_VERSION = 2  # of all others, so that earlier Banyans read them
INDEXED_VERSION = 5  # of indices of WebDatasets that others wrote, which stay where they are (trainer/data/web)
ENCRYPTED_VERSION = 6  # of encrypted shards (trainer/machine/sealing)
VERSIONS = (
    1,
    PLAIN_VERSION,
    TARGETS_VERSION,
    VERSION,
    INDEXED_VERSION,
    ENCRYPTED_VERSION,
)  # that are read; the first had no hashes of indices
CONTENT_VERSION = 1  # of what the fingerprint hashes
DTYPES = {"uint16": 2, "uint32": 4}  # bytes of a token
MOST_BYTES = 2**30  # of manifest.json, which names every input file
MOST_LABELS, LONGEST_LABEL = 10_000, 200
MOST_VOCABULARY = 2**24
AGAIN = 'Prepare the data again (or fetch them whole), then "banyan data verify".'


@dataclass(frozen=True)
class IndexedFile:
    """A tar that others wrote, where it lies: a path or URL, and the time or ETag that it was indexed at, as text."""

    address: str
    state: str


@dataclass(frozen=True)
class IndexedRecord:
    """How the documents of indexed tars are read: the settings they were found by, and who encodes their texts.

    `stored_tokens` of the documents are tokens already: nobody knows the bytes of their texts.
    """

    text_field: str
    most_document_bytes: Count
    engine: str
    stored_tokens: Count = 0


@dataclass(frozen=True)
class PlainContent:
    """Size and sha256 of the tar in an encrypted shard, as it would be without encryption."""

    bytes: Count
    sha256: Sha256


@dataclass(frozen=True)
class Shard:
    """A shard file: sizes in bytes, sha256 of the tar, tokens (end-of-text ones included), documents, bytes of text.

    `index_sha256` is of the numbers in the index; None if an earlier version wrote the shard. `targets` is how many
    tokens are learnt; None if the shard doesn't say, which means all. `members` are those of block_members.KINDS that
    its blocks have, with their widths. Where it is the index of a tar that is `indexed`, `bytes` are the tar's and
    `sha256` is the index's. Of an encrypted one both are the file's, and `plain` tells of the tar in it.
    """

    file: str
    bytes: Count
    sha256: Sha256
    tokens: Count
    documents: Count
    text_bytes: Count
    index_sha256: Sha256 | None = None
    targets: Count | None = None
    members: dict[str, Count] = field(default_factory=dict)
    indexed: IndexedFile | None = None
    plain: PlainContent | None = None

    @property
    def content(self) -> PlainContent:
        """Size and hash of the tar, encrypted or not."""
        return self.plain or PlainContent(self.bytes, self.sha256)

    def to_json(self) -> dict[str, Any]:
        """As manifest.json has it: without `targets` where all tokens are, and without what there is none of."""
        left_out: dict[str, Any] = {"targets": None, "members": {}, "indexed": None, "plain": None}
        return {name: value for name, value in asdict(self).items() if name not in left_out or value != left_out[name]}


@dataclass(frozen=True)
class SourceGroup:
    """The files that one entry of data.input named. A document's source number counts the files of all groups."""

    input: str
    licence: str | None
    files: tuple[str, ...]


@dataclass(frozen=True)
class TokenizerRecord:
    """The tokenizer, as manifest.json describes it."""

    name: str
    sha256: Sha256
    vocab_size: Annotated[int, Within(1, MOST_VOCABULARY)]
    end_of_text: Count
    special_ids: dict[str, Count]


@dataclass(frozen=True)
class ModelRecord:
    """A model that members of the blocks come from: its place, the sha256 of its weights, the precision it ran in.

    `temperature` is that of a teacher's probabilities.
    """

    path: str
    sha256: Sha256
    precision: str
    temperature: float = 1.0


@dataclass(frozen=True)
class ManifestRecord:
    """The content of manifest.json."""

    name: str
    fingerprint: str
    dtype: str
    tokenizer: TokenizerRecord
    tokens: Count
    documents: Count
    text_bytes: Count
    documents_read: Count
    rejected: dict[str, Count]
    shards: tuple[Shard, ...]
    sources: tuple[SourceGroup, ...]
    prepared: dict[str, Any]
    models: dict[str, ModelRecord] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    indexed: IndexedRecord | None = None
    encryption: tuple[WrappedKey, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """A dataset. `folder` is where it was read from; all else is in manifest.json."""

    folder: Path
    name: str
    dtype: str  # uint16 or uint32
    tokenizer_name: str
    tokenizer_sha256: str
    vocab_size: int
    end_of_text: int
    special_ids: dict[str, int]
    shards: tuple[Shard, ...]
    rejected: dict[str, int]  # by reason, of the whole input of prepare, before the split
    documents_read: int  # of the whole input: what was rejected, and both splits
    sources: tuple[SourceGroup, ...]
    models: dict[str, ModelRecord] = field(default_factory=dict)  # by the member that comes from them
    labels: tuple[str, ...] = ()  # of texts or words, in the order of their numbers
    prepared: dict[str, Any] = field(default_factory=dict)  # command, version, time, settings: for people
    indexed: IndexedRecord | None = None  # where the shards are indices of tars that others wrote
    encryption: tuple[WrappedKey, ...] = ()  # the data keys of the shards, wrapped by the user's

    @property
    def tokens(self) -> int:
        """Tokens in all shards, end-of-text ones included."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def documents(self) -> int:
        """Documents in all shards."""
        return sum(shard.documents for shard in self.shards)

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of all documents."""
        return sum(shard.text_bytes for shard in self.shards)

    @property
    def knows_bytes(self) -> bool:
        """Whether `text_bytes` are of all documents."""
        return self.text_bytes > 0 and (self.indexed is None or self.indexed.stored_tokens == 0)

    @property
    def has_targets(self) -> bool:
        """Whether shards say which tokens are targets."""
        return any(shard.targets is not None for shard in self.shards)

    @property
    def targets(self) -> int:
        """Tokens in all shards that are learnt."""
        return sum(shard.tokens if shard.targets is None else shard.targets for shard in self.shards)

    @property
    def members(self) -> dict[str, int]:
        """What blocks hold besides tokens and targets (block_members.KINDS), with widths: what all shards have."""
        first, *others = [shard.members for shard in self.shards if shard.documents] or [{}]
        return {name: width for name, width in first.items() if all(o.get(name) == width for o in others)}

    @property
    def tokenizer_file(self) -> Path:
        """The dataset's tokenizer.json."""
        return self.folder / "tokenizer" / "tokenizer.json"

    @cached_property
    def modalities(self) -> dict[str, CodeRange]:
        """Where codes of images, audio and the like stand in the vocabulary, by modality."""
        return find_ranges(self.special_ids)

    @cached_property
    def fingerprint(self) -> str:
        """The hash of what determines the tokens: tokenizer, dtype, shard hashes and counts. No time, path or key."""
        shards = [[shard.content.sha256, shard.tokens, shard.documents, shard.text_bytes] for shard in self.shards]
        tokens = [FORMAT, CONTENT_VERSION, self.tokenizer_sha256, self.end_of_text, self.dtype, shards]
        content = json.dumps([*tokens, self.labels] if self.labels else tokens)
        return hashlib.sha256(content.encode()).hexdigest()

    @cached_property
    def _group_ends(self) -> list[int]:
        return list(accumulate(len(group.files) for group in self.sources))

    def has_source(self, number: int) -> bool:
        """Whether a file has this source number."""
        return bool(self._group_ends) and number < self._group_ends[-1]

    def group_of(self, number: int) -> int | None:
        """The number of the group in `sources` whose file has this source number; None where none has."""
        return bisect_right(self._group_ends, number) if self.has_source(number) else None

    def licence_of(self, number: int) -> str | None:
        """The licence that its sources state, of the file with this source number; None where they state none."""
        return self.sources[bisect_right(self._group_ends, number)].licence if self.has_source(number) else None

    def source_name(self, number: int) -> str:
        """The file, below its input, that has this source number. InputError if none has."""
        if not self.has_source(number):
            raise InputError(
                f"{self.folder / FILE}: it names no source {number:,}, which a document comes from. {AGAIN}"
            )
        group = bisect_right(self._group_ends, number)
        return self.sources[group].files[number - self._group_ends[group]]


def has_text_alone(manifest: Manifest) -> bool:
    """Whether every token is learnt and stands for text, so that bits per byte of text mean something."""
    return not manifest.has_targets and not manifest.modalities


def write_manifest(manifest: Manifest, *, scratch: Path | None = None) -> None:
    """Writes manifest.json into the manifest's folder, durably. It comes last: with it the dataset is complete."""
    content = {
        "format": FORMAT,
        "version": _version_of(manifest),
        "name": manifest.name,
        "fingerprint": manifest.fingerprint,
        "dtype": manifest.dtype,
        "tokenizer": {
            "name": manifest.tokenizer_name,
            "sha256": manifest.tokenizer_sha256,
            "vocab_size": manifest.vocab_size,
            "end_of_text": manifest.end_of_text,
            "special_ids": manifest.special_ids,
        },
        **({"modalities": ranges_as_json(manifest.modalities)} if manifest.modalities else {}),
        "tokens": manifest.tokens,
        "documents": manifest.documents,
        "text_bytes": manifest.text_bytes,
        "documents_read": manifest.documents_read,
        "rejected": manifest.rejected,
        **({"indexed": asdict(manifest.indexed)} if manifest.indexed else {}),
        "shards": [shard.to_json() for shard in manifest.shards],
        "sources": [asdict(group) for group in manifest.sources],
        **({"labels": list(manifest.labels)} if manifest.labels else {}),
        **({"models": {name: asdict(record) for name, record in manifest.models.items()}} if manifest.models else {}),
        **({"encryption": [asdict(key) for key in manifest.encryption]} if manifest.encryption else {}),
        "prepared": manifest.prepared,
    }
    write_json(manifest.folder / FILE, content, scratch=scratch)


def _version_of(manifest: Manifest) -> int:
    """The earliest version that has what the shards have, so that earlier Banyans read them."""
    if manifest.encryption:
        return ENCRYPTED_VERSION
    if manifest.indexed is not None:
        return INDEXED_VERSION
    if any(shard.members for shard in manifest.shards):
        return VERSION
    return TARGETS_VERSION if manifest.has_targets else PLAIN_VERSION


def read_manifest(folder: Path) -> Manifest:
    """The dataset in `folder`; InputError if manifest.json is missing, broken, of another version or was edited."""
    path = folder / FILE
    try:
        content = read_json(path, most_bytes=MOST_BYTES)
    except FileNotFoundError as error:
        raise InputError(f"{path}: missing; {folder} is no dataset of token shards.{_hint(folder)}") from error
    except Malformed as error:
        raise InputError(f"{path}: can't be read as JSON ({error}). {AGAIN}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f'{path}: not a manifest of token shards ("format" isn\'t "{FORMAT}").{_hint(folder)}')
    version = content.get("version")
    if type(version) is not int or version not in VERSIONS:
        raise InputError(
            f"{path}: format version {shown(version)}, this Banyan reads {VERSIONS[-1]}: prepare the data again."
        )
    try:
        record = from_known(ManifestRecord, content)
        _check(path, record, hashed=version > 1)
    except Malformed as error:
        raise InputError(f"{path}: incomplete or malformed ({error}). {AGAIN}") from error
    manifest = _manifest(folder, record)
    if record.fingerprint != manifest.fingerprint:
        raise InputError(f"{path}: the fingerprint doesn't fit the contents: the file was edited or damaged. {AGAIN}")
    KEYRING.offer(manifest.encryption, folder)
    return manifest


def _manifest(folder: Path, record: ManifestRecord) -> Manifest:
    return Manifest(
        folder=folder,
        name=record.name,
        dtype=record.dtype,
        tokenizer_name=record.tokenizer.name,
        tokenizer_sha256=record.tokenizer.sha256,
        vocab_size=record.tokenizer.vocab_size,
        end_of_text=record.tokenizer.end_of_text,
        special_ids=record.tokenizer.special_ids,
        shards=record.shards,
        rejected=record.rejected,
        documents_read=record.documents_read,
        sources=record.sources,
        models=record.models,
        labels=record.labels,
        prepared=record.prepared,
        indexed=record.indexed,
        encryption=record.encryption,
    )


def _check(path: Path, record: ManifestRecord, *, hashed: bool) -> None:
    """Refuses a manifest that contradicts itself."""
    if record.dtype not in DTYPES:
        raise Malformed(f"dtype {shown(record.dtype)} is neither of {', '.join(DTYPES)}")
    item, tokenizer = DTYPES[record.dtype], record.tokenizer
    largest = max([tokenizer.end_of_text, *tokenizer.special_ids.values()])
    if largest >= tokenizer.vocab_size or tokenizer.vocab_size > 2 ** (8 * item):
        raise Malformed(
            f"a vocabulary of {tokenizer.vocab_size:,} doesn't fit {record.dtype}, or has no token {largest:,}"
        )
    files = set()
    for shard in record.shards:
        files.add(bare_name(shard.file, path))
        if (shard.indexed is None) != (record.indexed is None):
            raise Malformed(f"{shard.file}: some shards are indexed tars, and others aren't")
        if (shard.plain is not None) != bool(record.encryption):
            raise Malformed(f"{shard.file}: some shards are encrypted, and others aren't, or the key is missing")
        held = shard.tokens if shard.indexed is not None else shard.content.bytes // item
        if shard.tokens > held or shard.documents > shard.tokens:
            raise Malformed(f"{shard.file}: {shard.bytes:,} bytes can't hold its tokens and documents")
        if hashed and shard.index_sha256 is None:
            raise Malformed(f"{shard.file}: index_sha256 is missing")
        if shard.targets is not None and (shard.targets > shard.tokens or not hashed):
            raise Malformed(f"{shard.file}: {shard.targets:,} targets can't be among its tokens")
        check_widths(shard.members)
    _check_labels(record)
    if len(files) != len(record.shards):
        raise Malformed("two shards have one name")
    for total in ("tokens", "documents", "text_bytes"):
        counted, stated = sum(getattr(shard, total) for shard in record.shards), getattr(record, total)
        if stated != counted:
            raise Malformed(f"states {stated:,} {total}, its shards add up to {counted:,}")


def _check_labels(record: ManifestRecord) -> None:
    """Refuses numbers of labels without their names, and names that are none."""
    labels = record.labels
    if len(set(labels)) != len(labels) or len(labels) > MOST_LABELS:
        raise Malformed("its labels aren't each another")
    if any(not 0 < len(label) <= LONGEST_LABEL for label in labels):
        raise Malformed("a label is no name")
    if not labels and any({LABEL, TAGS} & shard.members.keys() for shard in record.shards):
        raise Malformed("its labels have no names")


def _hint(folder: Path) -> str:
    inside = [split for split in SPLITS if (folder / split / FILE).is_file()]
    if inside:
        return f" Did you mean {folder / inside[0]}?"
    return ' Make one with "banyan prepare", or finish it with the same command as before.'


def output_of(folder: Path) -> Path:
    """The output of prepare that a folder is, or is a split of."""
    folder = folder.resolve()
    return folder.parent if folder.name in SPLITS else folder


def datasets_in(folder: Path) -> list[Path]:
    """The dataset folders in `folder`: itself, or an output's train, validation and test, those that are there.

    InputError if no manifest is there at all.
    """
    if os.path.lexists(folder / FILE):
        return [folder]
    inside = [folder / split for split in SPLITS if os.path.lexists(folder / split)]
    if not any(os.path.lexists(split / FILE) for split in inside):
        read_manifest(folder)  # refuses, and says why
    return inside

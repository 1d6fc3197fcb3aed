"""manifest.json: what a dataset of token shards is, counted and hashed."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from trainer.durable import write_json
from trainer.errors import InputError

FILE = "manifest.json"
FORMAT = "banyan-token-shards"
VERSION = 1
AGAIN = 'Prepare the data again (or fetch them whole), then "banyan data verify".'


@dataclass(frozen=True)
class Shard:
    """A shard file: sizes in bytes, sha256 of the tar, tokens (end-of-text ones included), documents, bytes of text."""

    file: str
    bytes: int
    sha256: str
    tokens: int
    documents: int
    text_bytes: int


@dataclass(frozen=True)
class SourceGroup:
    """The files that one entry of data.input named. A document's source number counts the files of all groups."""

    input: str
    licence: str | None
    files: tuple[str, ...]


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
    prepared: dict[str, Any] = field(default_factory=dict)  # command, version, time, settings: for people

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
    def tokenizer_file(self) -> Path:
        """The dataset's tokenizer.json."""
        return self.folder / "tokenizer" / "tokenizer.json"

    @cached_property
    def fingerprint(self) -> str:
        """The hash of what determines the tokens: tokenizer, dtype, shard hashes and counts; no times, no paths."""
        shards = [[shard.sha256, shard.tokens, shard.documents, shard.text_bytes] for shard in self.shards]
        content = json.dumps([FORMAT, VERSION, self.tokenizer_sha256, self.end_of_text, self.dtype, shards])
        return hashlib.sha256(content.encode()).hexdigest()

    @cached_property
    def _group_ends(self) -> list[int]:
        return list(accumulate(len(group.files) for group in self.sources))

    def source_name(self, number: int) -> str:
        """The file, below its input, that has this source number."""
        group = bisect_right(self._group_ends, number)
        return self.sources[group].files[number - self._group_ends[group]]


def write_manifest(manifest: Manifest, *, scratch: Path | None = None) -> None:
    """Writes manifest.json into the manifest's folder, durably. It comes last: with it the dataset is complete."""
    content = {
        "format": FORMAT,
        "version": VERSION,
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
        "tokens": manifest.tokens,
        "documents": manifest.documents,
        "text_bytes": manifest.text_bytes,
        "documents_read": manifest.documents_read,
        "rejected": manifest.rejected,
        "shards": [asdict(shard) for shard in manifest.shards],
        "sources": [asdict(group) for group in manifest.sources],
        "prepared": manifest.prepared,
    }
    write_json(manifest.folder / FILE, content, scratch=scratch)


def read_manifest(folder: Path) -> Manifest:
    """The dataset in `folder`; InputError if manifest.json is missing, broken, of another version or was edited."""
    path = folder / FILE
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: missing; {folder} is no dataset of token shards.{_hint(folder)}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: can't be read as JSON ({error}). {AGAIN}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f'{path}: not a manifest of token shards ("format" isn\'t "{FORMAT}").{_hint(folder)}')
    if content.get("version") != VERSION:
        raise InputError(
            f"{path}: format version {content.get('version')}, this Banyan reads {VERSION}: prepare the data again."
        )
    try:
        manifest = _parse(folder, content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: incomplete or malformed ({type(error).__name__}: {error}). {AGAIN}") from error
    _check(path, manifest, content)
    return manifest


def _parse(folder: Path, content: dict[str, Any]) -> Manifest:
    tokenizer = content["tokenizer"]
    return Manifest(
        folder=folder,
        name=str(content["name"]),
        dtype=str(content["dtype"]),
        tokenizer_name=str(tokenizer["name"]),
        tokenizer_sha256=str(tokenizer["sha256"]),
        vocab_size=int(tokenizer["vocab_size"]),
        end_of_text=int(tokenizer["end_of_text"]),
        special_ids={str(token): int(number) for token, number in tokenizer["special_ids"].items()},
        shards=tuple(_parse_shard(shard) for shard in content["shards"]),
        rejected={str(reason): int(count) for reason, count in content["rejected"].items()},
        documents_read=int(content["documents_read"]),
        sources=tuple(
            SourceGroup(str(group["input"]), group["licence"], tuple(map(str, group["files"])))
            for group in content["sources"]
        ),
        prepared=dict(content["prepared"]),
    )


def _parse_shard(shard: dict[str, Any]) -> Shard:
    counts = {key: int(shard[key]) for key in ("bytes", "tokens", "documents", "text_bytes")}
    file = str(shard["file"])
    if Path(file).name != file or min(counts.values()) < 0:
        raise ValueError(f"shard {file!r} with {counts}")
    return Shard(file=file, sha256=str(shard["sha256"]), **counts)


def _check(path: Path, manifest: Manifest, content: dict[str, Any]) -> None:
    """Refuses a manifest that contradicts itself."""
    if manifest.dtype not in ("uint16", "uint32"):
        raise InputError(f"{path}: dtype {manifest.dtype!r} is neither uint16 nor uint32. {AGAIN}")
    for total in ("tokens", "documents", "text_bytes"):
        counted, stated = getattr(manifest, total), content.get(total)
        if stated != counted:
            raise InputError(f"{path}: states {stated} {total}, its shards add up to {counted:,}. {AGAIN}")
    if content.get("fingerprint") != manifest.fingerprint:
        raise InputError(f"{path}: the fingerprint doesn't fit the contents: the file was edited or damaged. {AGAIN}")


def _hint(folder: Path) -> str:
    inside = [split for split in ("train", "validation") if (folder / split / FILE).is_file()]
    if inside:
        return f" Did you mean {folder / inside[0]}?"
    return ' Make one with "banyan prepare", or finish it with the same command as before.'


def datasets_in(folder: Path) -> list[Path]:
    """The dataset folders in `folder`: itself, or train and validation of an output of prepare."""
    if (folder / FILE).is_file():
        return [folder]
    inside = [folder / split for split in ("train", "validation") if (folder / split / FILE).is_file()]
    if not inside:
        read_manifest(folder)  # refuses, and says why
    return inside

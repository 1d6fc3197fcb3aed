"""A folder of token shards on this disk → the description of a set, with the hash of each of its files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.data.share.shared_set import LICENCES, SetFile, SharedSet, SourceLicence, licence_lines
from trainer.data.text.remote import is_remote
from trainer.data.tokens.manifest import FILE, Manifest, datasets_in, read_manifest
from trainer.data.tokens.shard_index import index_path
from trainer.data.tokens.shards import find_missing
from trainer.data.tokens.stated import stated_language
from trainer.data.tokens.tokenizer import CONFIG, TEMPLATE
from trainer.data.tokens.tokenizer import FILE as TOKENIZER
from trainer.errors import InputError
from trainer.machine.sealing.plaintext import stored_sha256


@dataclass(frozen=True)
class LocalSet:
    """A set on this disk: its description, and where each of its files is, or what it holds."""

    folder: Path
    described: SharedSet
    made: Mapping[str, bytes]  # by path: files that are made for those who read the set

    def source_of(self, file: SetFile) -> Path | bytes:
        """What is to be sent as a file."""
        return self.made[file.path] if file.path in self.made else self.folder / file.path


def describe_set(
    folder: Path,
    beside: Sequence[str] = (),
    made: Mapping[str, bytes] | None = None,
    *,
    hash_file: Callable[[Path], str] = stored_sha256,
) -> LocalSet:
    """The set in `folder`, a data set or an output of prepare. InputError where a file of it is missing.

    `beside` names files that belong to it where they are there, as its card; `made` holds others.
    """
    manifests = [read_manifest(each) for each in datasets_in(folder)]
    first = manifests[0]
    licences = tuple(source_licences(first))
    made = {LICENCES: _licence_file(first.name, licences), **(made or {})}
    files = [SetFile(name, len(content), hashlib.sha256(content).hexdigest()) for name, content in made.items()]
    paths = [folder / name for name in beside if name not in made and _is_plain(folder / name)]
    for manifest in manifests:
        files += _shard_files(folder, manifest)
        paths += _small_files(manifest)
    files += [SetFile(_below(folder, path), path.stat().st_size, hash_file(path)) for path in paths]
    described = SharedSet(
        name=first.name,
        fingerprint=first.fingerprint,
        fingerprints={_below(folder, each.folder / FILE): each.fingerprint for each in manifests},
        documents=sum(each.documents for each in manifests),
        tokens=sum(each.tokens for each in manifests),
        text_bytes=sum(each.text_bytes for each in manifests),
        languages=tuple(sorted({each.language for each in licences if each.language})),
        tokenizer=first.tokenizer_name,
        licences=licences,
        files=tuple(sorted(files, key=lambda file: file.path)),
        time=str(first.prepared.get("time", "")),
        banyan=str(first.prepared.get("version", "")),
    )
    return LocalSet(folder, described, made)


def source_licences(manifest: Manifest) -> Iterator[SourceLicence]:
    """What is stated of each input of prepare."""
    for group in manifest.sources:
        yield SourceLicence(group.input, group.licence, stated_language(manifest, group), len(group.files))


def _shard_files(folder: Path, manifest: Manifest) -> Iterator[SetFile]:
    """The shards, by the manifest's hashes: they are read when they are sent."""
    for shard in manifest.shards:
        if problem := find_missing(manifest.folder, shard):
            raise InputError(problem)
        path = manifest.folder / shard.file
        if shard.indexed is None:
            yield SetFile(_below(folder, path), shard.bytes, shard.sha256)
            continue
        if not is_remote(shard.indexed.address):
            raise InputError(
                f"{path}: an index of a tar on this machine, {shard.indexed.address}, which others don't have; put "
                "the tars into a bucket and index them there, or make token shards of them by banyan prepare."
            )
        yield SetFile(_below(folder, path), path.stat().st_size, stored_sha256(path))


def _small_files(manifest: Manifest) -> Iterator[Path]:
    """Manifest, tokenizer and indices."""
    yield manifest.folder / FILE
    tokenizer = manifest.tokenizer_file.parent
    yield from (tokenizer / name for name in (TOKENIZER, CONFIG, TEMPLATE) if _is_plain(tokenizer / name))
    if manifest.indexed is None:
        yield from (index_path(manifest.folder / shard.file) for shard in manifest.shards)


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _below(folder: Path, path: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _licence_file(name: str, licences: Sequence[SourceLicence]) -> bytes:
    """LICENCES.md: whoever reads the set sees it."""
    lines = "".join(f"- {_plain(line)}\n" for line in licence_lines(licences))
    return f"# Licences of {_plain(name)}, by source\n\n{lines}".encode(errors="backslashreplace")


def _plain(text: str) -> str:
    """A text of others in one line of Markdown, with no markup of its own."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>#|!&" else (c if c.isprintable() else " ") for c in text)

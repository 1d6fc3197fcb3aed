"""Another user's key for what is encrypted: `banyan data rekey DIR data.encryption.key_file=OLD new.key_file=NEW`.

The files stay as they are: what changes is how their data key is wrapped, in encryption.json, in manifests and in
checkpoints' COMPLETE. With `full` the files of prepared data are encrypted anew with a fresh data key. Each file is
replaced as a whole, and what has the new key already is left alone, so that the same command goes on after any end.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from trainer.data.tokens.manifest import FILE as MANIFEST
from trainer.data.tokens.manifest import MOST_BYTES, SPLITS, PlainContent, Shard, read_manifest, write_manifest
from trainer.errors import InputError
from trainer.machine.durable import replacing, write_json
from trainer.machine.json_file import Malformed, read_json
from trainer.machine.sealed_folder import write_envelope
from trainer.machine.sealing.data_key import DataKey, WrappedKey
from trainer.machine.sealing.keyring import FILE as ENVELOPE
from trainer.machine.sealing.keyring import KEYRING, Envelope, read_envelope
from trainer.machine.sealing.plaintext import is_sealed, open_plaintext, sealed_with, stored_sha256
from trainer.machine.sealing.user_key import KeyProblem, KeySource, UserKey

COMPLETE = "COMPLETE"
FIELDS = {ENVELOPE: "keys", MANIFEST: "encryption", COMPLETE: "encryption"}  # of each file that holds wrapped keys
CHUNK = 2**22


@dataclass(frozen=True)
class _Holder:
    """A file that holds wrapped data keys: its content, and the keys, opened."""

    path: Path
    content: dict[str, Any]
    keys: tuple[DataKey, ...]
    is_done: bool  # all of them are wrapped by the new key


def rekey(folder: Path, new: KeySource) -> int:
    """Wraps all data keys below `folder` by the `new` user's key in place of this process's; how many files changed.

    KeyProblem, before anything is written, where one was wrapped by neither.
    """
    old_key, new_key = KEYRING.user_key(folder), new.read()
    holders = [_opened(path, old_key, new_key, new) for path in _holders(folder)]
    if not holders:
        raise InputError(f"{folder}: nothing is encrypted there; name an output of prepare, or a run directory.")
    for holder in holders:
        if not holder.is_done:
            keys = [asdict(WrappedKey.of(key, new_key)) for key in holder.keys]
            write_json(holder.path, {**holder.content, FIELDS[holder.path.name]: keys})
    KEYRING.use(new)
    return sum(not holder.is_done for holder in holders)


def encrypt_anew(folder: Path) -> int:
    """Encrypts the files of an output of prepare with a fresh data key; how many there were left to do."""
    envelope = read_envelope(folder)
    splits = [folder / split for split in SPLITS if (folder / split / MANIFEST).is_file()]
    if envelope is None or not splits:
        raise InputError(f"{folder}: no finished output of prepare; full=true is for these.")
    user = KEYRING.user_key(folder)
    if len(envelope.keys) == 1:
        envelope = _with_keys(envelope, (WrappedKey.of(DataKey.fresh(), user), *envelope.keys), splits)
    fresh = bytes.fromhex(envelope.keys[0].id)
    done = 0
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and is_sealed(path) and sealed_with(path) != fresh:
            _encrypt_anew(path)
            done += 1
    for split in splits:
        manifest = read_manifest(split)
        shards = tuple(_as_it_is(split, shard) for shard in manifest.shards)
        write_manifest(replace(manifest, shards=shards, encryption=envelope.keys[:1]))
    write_envelope(replace(envelope, keys=envelope.keys[:1]))
    return done


def _holders(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in FIELDS:
            if name in names and not Path(root, name).is_symlink():
                yield Path(root, name)


def _opened(path: Path, old: UserKey, new: UserKey, source: KeySource) -> _Holder:
    try:
        content = read_json(path, most_bytes=MOST_BYTES)
        values = content.get(FIELDS[path.name]) or []
        wrapped = [WrappedKey(**{str(name): str(value) for name, value in key.items()}) for key in values]
    except (Malformed, TypeError, AttributeError) as error:
        raise InputError(f"{path}: can't be read ({error}); restore it from a copy.") from error
    keys, is_done = [], True
    for key in wrapped:
        try:
            keys.append(key.unwrapped(new, str(path), str(source)))
        except KeyProblem:
            keys.append(key.unwrapped(old, str(path), str(KEYRING.source)))
            is_done = False
    return _Holder(path, content, tuple(keys), is_done)


def _with_keys(envelope: Envelope, keys: tuple[WrappedKey, ...], splits: list[Path]) -> Envelope:
    """Has the folder and its manifests hold these keys: before any file is encrypted with the first of them."""
    for split in splits:
        write_manifest(replace(read_manifest(split), encryption=keys))
    changed = replace(envelope, keys=keys)
    write_envelope(changed)
    return changed


def _encrypt_anew(path: Path) -> None:
    with open_plaintext(path) as text, replacing(path) as file:
        while piece := text.read(CHUNK):
            file.write(piece)


def _as_it_is(folder: Path, shard: Shard) -> Shard:
    """A shard as its file is now, of which the tar must be the same."""
    path = folder / shard.file
    with open_plaintext(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.seek(0, os.SEEK_END)
    if PlainContent(size, digest) != shard.content:
        raise InputError(f"{path}: not the shard that the manifest describes; fetch it, or prepare it again.")
    return replace(shard, bytes=path.stat().st_size, sha256=stored_sha256(path))

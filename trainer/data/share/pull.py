"""A set in a store → a folder on this disk. Nothing has its name before it was hashed; the manifests come last."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from trainer.data.share.listing import list_sets
from trainer.data.share.placing import is_placed, place_file
from trainer.data.share.push import read_from
from trainer.data.share.set_store import FolderStore, SetStore
from trainer.data.share.shared_set import (
    FILE,
    MOST_BYTES,
    PARTIAL,
    PUSHING,
    SET_NAME,
    SetFile,
    SharedSet,
    folders_above,
    read_shared_set,
)
from trainer.data.share.transfers import Copying, ask_all, copy_all
from trainer.data.text.progress import bytes_in_words
from trainer.data.text.remote import is_remote, shown_url
from trainer.data.tokens.manifest import FILE as MANIFEST
from trainer.data.tokens.manifest import MOST_BYTES as MOST_MANIFEST_BYTES
from trainer.data.tokens.manifest import Manifest, read_manifest
from trainer.errors import ConfigError, InputError
from trainer.machine.durable import make_folder, storage_errors, write_bytes
from trainer.machine.json_file import Malformed, read_regular

PULLING = ".pulling"  # a folder in the output: set.json, and manifests before they get their places
Say = Callable[[str, str], None]


def find_set(store: SetStore, wanted: str) -> str:
    """The name of the folder of a set in a store, by its fingerprint, one of its parts', or the beginning of either."""
    records = (f"{wanted}/{file}" for file in (FILE, PUSHING))
    if SET_NAME.fullmatch(wanted) and any(store.read(path, MOST_BYTES) is not None for path in records):
        return wanted
    names = [name for name in store.names() if SET_NAME.fullmatch(name)]
    found = [name for name in names if name.startswith(wanted)]
    if not found:
        rows = [row for row in list_sets(store) if row.described is not None]
        found = [
            row.described.fingerprint
            for row in rows
            if row.described and any(each.startswith(wanted) for each in row.described.fingerprints.values())
        ]
    if not found:
        there = f"it has {', '.join(name[:12] for name in names[:8])}" if names else "no set is there"
        raise InputError(f"{wanted}: no such set in {shown_url(store.address)}; {there}.")
    if len(found) > 1:
        raise InputError(f"{wanted}: {len(found)} sets begin so: {', '.join(found[:4])}; give more digits.")
    return found[0]


def read_whole_set(store: SetStore, name: str) -> SharedSet:
    """A set's description. InputError unless it is whole."""
    described = read_from(store, name, FILE)
    if described is None:
        raise InputError(
            f"{shown_url(store.address)}/{name}: it isn't whole, set.json is missing: it is being pushed, or that was "
            "interrupted; let who pushed it run the same command again."
        )
    if described.fingerprint != name:
        raise InputError(
            f"{shown_url(store.address)}/{name}: its set.json is of another set, {described.fingerprint[:12]}; push it "
            "again."
        )
    return described


def pull_set(store: SetStore, described: SharedSet, output: Path, workers: int, say: Say) -> None:
    """Makes `output` the set. InputError, StorageError: a line, and nothing was written outside of it."""
    _begin(described, output)
    here = ask_all([partial(is_placed, output, file) for file in described.files], workers)
    missing = [file for file, is_here in zip(described.files, here, strict=True) if not is_here]
    if not missing and (output / FILE).is_file():
        say("pull", f"{output}: up to date, {len(described.files):,} files hashed")
        return
    if len(missing) < len(described.files):
        say("continue", f"{len(described.files) - len(missing):,} files are there, and were hashed")
    _check_room(output, missing)
    staged = output / PULLING
    _stage_manifests(store, described, staged)
    others = [file for file in missing if file.path not in described.fingerprints]
    copy_all("pull", [Copying(file.bytes, partial(_fetch, store, described, output, file)) for file in others], workers)
    _end(described, output, staged)
    say("pull", f"{output}: whole, {len(described.files):,} files, {bytes_in_words(described.total_bytes)}")


def _stage_manifests(store: SetStore, described: SharedSet, staged: Path) -> None:
    """Fetches the manifests and checks them; what is refused leaves nothing where nothing was."""
    with storage_errors(staged):
        staged.mkdir(exist_ok=True)
    try:
        write_bytes(staged / FILE, described.to_json())
        for file in described.manifests:
            _fetch(store, described, staged, file, lambda count: None)
            _check_manifest(described, file, staged)
    except InputError:
        shutil.rmtree(staged, ignore_errors=True)
        if not any(staged.parent.iterdir()):
            staged.parent.rmdir()
        raise


def _begin(described: SharedSet, output: Path) -> None:
    """Refuses a folder with anything else in it, before anything is written."""
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise ConfigError(f"data.output={output}: it is a file or a link; choose a new folder.")
    before = next((path for path in (output / PULLING / FILE, output / FILE) if os.path.lexists(path)), None)
    if before is None:
        if output.is_dir() and any(output.iterdir()):
            raise ConfigError(f"data.output={output}: something else is there; choose a new folder.")
        return
    if (output / PULLING).is_symlink():
        raise InputError(f"{output / PULLING}: it is a link; remove it.")
    try:
        other = read_shared_set(read_regular(before), str(before)).fingerprint
    except (OSError, Malformed) as error:
        raise InputError(f"{before}: can't be read ({error}); remove {output}, or choose a new folder.") from error
    if other != described.fingerprint:
        raise ConfigError(f"data.output={output}: it holds the set {other[:12]}; choose a new folder.")


def _check_room(output: Path, missing: list[SetFile]) -> None:
    """Refuses what the disk can't hold, and manifests of absurd sizes."""
    for file in missing:
        if file.path.rpartition("/")[2] == MANIFEST and file.bytes > MOST_MANIFEST_BYTES:
            raise InputError(f"{file.path}: {file.bytes:,} bytes, where {MOST_MANIFEST_BYTES:,} are the most.")
    standing = next(place for place in (output, *output.parents) if place.exists())
    needed = sum(file.bytes for file in missing) - sum(_begun(output / file.path) for file in missing)
    free = shutil.disk_usage(standing).free
    if needed > free:
        raise InputError(
            f"data.output={output}: the set needs {needed:,} bytes more, and the disk has {free:,} free; free some "
            "space, or choose another folder."
        )
    make_folder(output)


def _begun(path: Path) -> int:
    partial_file = path.with_name(f".{path.name}{PARTIAL}")
    return partial_file.lstat().st_size if partial_file.is_file() else 0


def _fetch(store: SetStore, described: SharedSet, folder: Path, file: SetFile, advance: Callable[[int], None]) -> None:
    if isinstance(store, FolderStore):
        origin = store.folder / described.fingerprint
        if any((origin / part).is_symlink() for part in (*folders_above(file.path), file.path)):
            raise InputError(f"{origin / file.path}: it is a link, which a set has none of; push the set again.")
    place_file(f"{store.address}/{described.fingerprint}/{file.path}", folder, file, advance)


def _check_manifest(described: SharedSet, file: SetFile, staged: Path) -> None:
    """Refuses a manifest that isn't of the set, or names shards that the set doesn't have, before they are fetched."""
    folder = (staged / file.path).parent
    manifest = read_manifest(folder)
    if manifest.fingerprint != described.fingerprints[file.path]:
        raise InputError(
            f"{file.path}: the manifest is of other data ({manifest.fingerprint[:12]}); push the set again."
        )
    files = {each.path: each for each in described.files}
    place = file.path.rpartition("/")[0]
    for shard in manifest.shards:
        found = files.get(f"{place}/{shard.file}".lstrip("/"))
        sized = found is not None and (shard.indexed is not None or found.bytes == shard.bytes)
        if found is None or not sized or (shard.indexed is None and found.sha256 != shard.sha256):
            raise InputError(f"{file.path}: {shard.file} isn't among the files of the set; push the set again.")
    _check_indexed(manifest, file)


def _check_indexed(manifest: Manifest, file: SetFile) -> None:
    for shard in manifest.shards:
        if shard.indexed is not None and not is_remote(shard.indexed.address):
            raise InputError(f"{file.path}: its tars are said to be on this machine, where others can't know of them.")


def _end(described: SharedSet, output: Path, staged: Path) -> None:
    """Gives the manifests their names, then set.json; tidies up."""
    with storage_errors(output):
        for file in described.manifests:
            place_file(str(staged / file.path), output, file, lambda count: None)
        write_bytes(output / FILE, described.to_json())
        shutil.rmtree(staged, ignore_errors=True)

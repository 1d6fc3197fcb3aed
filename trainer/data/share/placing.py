"""A file gets its name in a folder once its size and hash are what they should be; what a kill cut short goes on."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from trainer.data.remote.file_lock import open_alone
from trainer.data.remote.origin import BadFile, fetch_hashed
from trainer.data.share.shared_set import PARTIAL, SetFile, folders_above
from trainer.errors import InputError
from trainer.machine.durable import storage_errors, sync
from trainer.machine.sealing.plaintext import stored_sha256

Advance = Callable[[int], None]


def place_file(address: str, folder: Path, file: SetFile, advance: Advance) -> None:
    """Copies the file at `address`, a path or a URL, to its place below `folder`, unless it is there.

    Until it is whole it is .NAME.partial, which another process that copies the same waits for. Unreachable, BadFile,
    StorageError, each a line; InputError where links stand in the way.
    """
    target = folder / file.path
    with storage_errors(target):
        make_folders(folder, file.path)
        partial = target.with_name(f".{target.name}{PARTIAL}")
        descriptor = _open_partial(partial)
        with open(descriptor, "r+b", buffering=0) as opened:
            if is_placed(folder, file):
                partial.unlink(missing_ok=True)
                return
            fetch_hashed(address, opened, size=file.bytes, sha256=file.sha256, advance=advance)
            os.replace(partial, target)
        sync(target.parent)


def make_folders(folder: Path, path: str) -> None:
    """Makes the folders of a path below `folder`. InputError where a link, which may lead anywhere, is one of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in path.split("/")[:-1]:
        folder = folder / part
        folder.mkdir(exist_ok=True)
        if folder.is_symlink():
            raise InputError(f"{folder}: it is a link; remove it, or choose another folder.")


def is_placed(folder: Path, file: SetFile) -> bool:
    """Whether a file is below `folder`, with its size and its hash, and no link leads to it."""
    path = folder / file.path
    if any((folder / part).is_symlink() for part in (*folders_above(file.path), file.path)):
        return False
    return path.is_file() and path.stat().st_size == file.bytes and stored_sha256(path) == file.sha256


def _open_partial(partial: Path) -> int:
    """Opens what will be a file, once no other process writes it."""
    try:
        return open_alone(partial, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError(f"{partial}: it is a link; remove it.") from error
        raise


def check_local(path: Path, file: SetFile) -> None:
    """BadFile unless a file on this disk is what its manifest says."""
    if path.stat().st_size != file.bytes or stored_sha256(path) != file.sha256:
        raise BadFile(f"{path}: its content isn't what the manifest says; prepare it again, or fetch it.")

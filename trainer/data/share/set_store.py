"""Where sets are shared: a folder of this machine or a mount, or a bucket. Each file is found whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from trainer.data.remote.origin import read_if_there
from trainer.data.share.bucket_store import WRITABLE, BucketStore
from trainer.data.share.placing import Advance, is_placed, make_folders, place_file
from trainer.data.share.shared_set import SetFile
from trainer.data.text.remote import SCHEMES, is_remote, shown_url
from trainer.errors import ConfigError
from trainer.machine.credentials import check_url
from trainer.machine.durable import storage_errors, write_bytes


class SetStore(Protocol):
    """A place with a folder for each set."""

    address: str

    def names(self) -> list[str]:
        """The folders in it; [] if it isn't there. Unreachable where that can't be told."""

    def sizes(self, name: str) -> dict[str, int] | None:
        """Bytes of the files in a folder, by their paths below it; None where the store can't list them."""

    def read(self, path: str, most_bytes: int) -> bytes | None:
        """A small file; None if it isn't there."""

    def holds(self, name: str, file: SetFile) -> bool:
        """Whether a set's file is there, with its size and its hash."""

    def put(self, name: str, file: SetFile, source: Path | bytes, advance: Advance) -> None:
        """Puts a file of a set there, whole. BadFile if `source` isn't what `file` says."""

    def write(self, path: str, content: bytes) -> None:
        """Writes a small file."""

    def remove(self, path: str) -> None:
        """Removes a file, if it is there."""


def open_set_store(address: str, *, writes: bool = False) -> SetStore:
    """The store at a path or URL. ConfigError for what can't be one."""
    check_url("data.store", address)
    address = address.removeprefix("file://").rstrip("/") or "/"
    if not is_remote(address):
        if "://" in address:
            raise ConfigError(f"data.store={address}: give a folder, or one of {', '.join(SCHEMES)}.")
        return FolderStore(Path(address).expanduser().absolute())
    if writes and not address.startswith(WRITABLE):
        raise ConfigError(
            f"data.store={shown_url(address)}: sets are pushed to a folder, {' or '.join(WRITABLE)}; push to a folder, "
            "then upload that with the tools of the place. Pull reads it."
        )
    return BucketStore(address)


class FolderStore:
    """Sets in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = str(folder)

    def names(self) -> list[str]:
        """The visible folders in it."""
        if not self.folder.is_dir():
            return []
        return sorted(each.name for each in os.scandir(self.folder) if each.is_dir() and each.name[0] != ".")

    def sizes(self, name: str) -> dict[str, int] | None:
        """Bytes of all files in a folder."""
        found = {}
        for root, _, files in os.walk(self.folder / name):
            for file in files:
                path = Path(root, file)
                found[path.relative_to(self.folder / name).as_posix()] = path.lstat().st_size
        return found

    def read(self, path: str, most_bytes: int) -> bytes | None:
        """A small file."""
        return read_if_there(str(self.folder / path), most_bytes)

    def holds(self, name: str, file: SetFile) -> bool:
        """Hashes the file."""
        return is_placed(self.folder / name, file)

    def put(self, name: str, file: SetFile, source: Path | bytes, advance: Advance) -> None:
        """Copies a file, going on where a kill cut it short."""
        if isinstance(source, Path):
            place_file(str(source), self.folder / name, file, advance)
        else:
            self.write(f"{name}/{file.path}", source)
            advance(file.bytes)

    def write(self, path: str, content: bytes) -> None:
        """Writes a small file durably."""
        with storage_errors(self.folder / path):
            make_folders(self.folder, path)
            write_bytes(self.folder / path, content)

    def remove(self, path: str) -> None:
        """Removes a file."""
        with storage_errors(self.folder / path):
            (self.folder / path).unlink(missing_ok=True)

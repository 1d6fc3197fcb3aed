"""What this process can encrypt and decrypt: the user's key, and the data keys that it opens.

A folder of which files are encrypted holds `encryption.json`: which files, by patterns of their paths, and its data
key, wrapped. Manifests and checkpoints hold the wrapped key as well, so that a copy of them is complete.

Whoever writes a file below such a folder writes it encrypted (`data_key_for`), in whatever process, once the process
knows where the user's key comes from (`use_key`). Whoever reads one (plaintext.py) sees by the file that it is.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from trainer.errors import InputError
from trainer.machine.sealing.data_key import DataKey, WrappedKey
from trainer.machine.sealing.user_key import KeyProblem, KeySource, UserKey

FILE = "encryption.json"
FORMAT, VERSION = "banyan-encryption", 1
MOST_BYTES = 2**16
MOST_LEVELS = 8  # of folders above a file that are looked through
PLAIN_NAMES = (FILE, "manifest.json", "plan.json", "COMPLETE")
PLAIN_ENDINGS = (".index", ".html", ".md")  # offsets and counts of blocks; data cards
GIVE = "give its key by data.encryption.key_file=FILE, key_env=VARIABLE or key_command=COMMAND."


@dataclass(frozen=True)
class Envelope:
    """The content of an encryption.json: what is encrypted below its folder, and with what.

    New files are written with the first key; the others are those of files that are still to be written anew.
    """

    folder: Path
    encrypted: tuple[str, ...]
    keys: tuple[WrappedKey, ...]

    def covers(self, path: Path) -> bool:
        """Whether a file below the folder is to be encrypted."""
        if path.name in PLAIN_NAMES or path.suffix in PLAIN_ENDINGS:
            return False
        name = path.relative_to(self.folder).as_posix()
        return any(fnmatchcase(name, pattern) for pattern in self.encrypted)

    def to_json(self) -> dict[str, object]:
        """As the file has it."""
        keys = [asdict(key) for key in self.keys]
        return {"format": FORMAT, "version": VERSION, "encrypted": list(self.encrypted), "keys": keys}


def read_envelope(folder: Path) -> Envelope | None:
    """The envelope of a folder; None where it has none. InputError where it is broken."""
    path = folder / FILE
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}).") from error
    with open(descriptor, "rb") as file:
        content = file.read(MOST_BYTES + 1)
    try:
        values = json.loads(content)
        if values["format"] != FORMAT or values["version"] != VERSION or len(content) > MOST_BYTES:
            raise ValueError("another format or version")
        keys = tuple(WrappedKey(**{str(name): str(value) for name, value in key.items()}) for key in values["keys"])
        patterns = tuple(str(pattern) for pattern in values["encrypted"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: no envelope of a key ({error}); restore it from a copy.") from None
    if not keys:
        raise InputError(f"{path}: it holds no key; restore it from a copy.")
    return Envelope(folder, patterns, keys)


class Keyring:
    """The keys of this process. Threads may share it."""

    def __init__(self) -> None:
        self.source: KeySource | None = None
        self._user: UserKey | None = None
        self._wrapped: dict[bytes, tuple[WrappedKey, str]] = {}  # by id: what was met, and what it is of
        self._opened: dict[bytes, DataKey] = {}
        self._folders: dict[Path, Envelope | None] = {}
        self._lock = threading.RLock()

    def use(self, source: KeySource | None) -> None:
        """Says where the user's key comes from. From then on others can't read what this process creates."""
        if source is None or source == self.source:
            return
        with self._lock:
            self.source, self._user = source, None
            self._opened.clear()
            self._folders.clear()
        os.umask(0o077)

    def user_key(self, what: object) -> UserKey:
        """The user's key. KeyProblem, about `what` needs it, where none was given."""
        with self._lock:
            if self.source is None:
                raise KeyProblem(f"{what}: encrypted; {GIVE}")
            self._user = self._user or self.source.read()
            return self._user

    def offer(self, keys: Iterable[WrappedKey], what: object) -> None:
        """Notes the wrapped keys of what was met, for files that need them."""
        with self._lock:
            for key in keys:
                self._wrapped[_bytes(key.id)] = key, str(what)

    def open(self, key: WrappedKey, what: object) -> DataKey:
        """A data key. KeyProblem where the user's key isn't the one that wraps it."""
        with self._lock:
            number = _bytes(key.id)
            if number not in self._opened:
                user = self.user_key(what)
                self._opened[number] = key.unwrapped(user, str(what), str(self.source))
            return self._opened[number]

    def data_key(self, number: bytes, path: Path) -> DataKey:
        """The data key with this id, that a file is encrypted with."""
        with self._lock:
            if number in self._opened:
                return self._opened[number]
            if number not in self._wrapped:
                envelope = self.envelope_above(path)
                if envelope is not None:
                    self.offer(envelope.keys, envelope.folder)
            if number not in self._wrapped:
                if self.source is None:
                    raise KeyProblem(f"{path}: encrypted; {GIVE}")
                raise KeyProblem(f"{path}: encrypted, and no {FILE} above it holds its key; put that there.")
            return self.open(*self._wrapped[number])

    def data_key_for(self, path: Path) -> DataKey | None:
        """The data key that a file which is to be written is encrypted with; None where it isn't."""
        if self.source is None:
            return None
        path = Path(os.path.abspath(path))
        envelope = self.envelope_above(path)
        if envelope is None or not envelope.covers(path):
            return None
        return self.open(envelope.keys[0], envelope.folder)

    def envelope_above(self, path: Path) -> Envelope | None:
        """The nearest envelope in the folders above a file."""
        folder = Path(os.path.abspath(path)).parent
        with self._lock:
            if folder not in self._folders:
                near = [folder, *folder.parents][:MOST_LEVELS]
                self._folders[folder] = next(filter(None, map(read_envelope, near)), None)
            return self._folders[folder]

    def look_again(self) -> None:
        """Forgets which folders have envelopes: one was written."""
        with self._lock:
            self._folders.clear()


def _bytes(number: str) -> bytes:
    try:
        return bytes.fromhex(number)
    except ValueError:
        return number.encode()


KEYRING = Keyring()

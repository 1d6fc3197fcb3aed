"""Folders whose files are encrypted: begun with a data key of their own, and given another user's key."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path

from trainer.errors import ConfigError
from trainer.machine.durable import json_bytes, storage_errors, sync, write_json
from trainer.machine.sealing.data_key import DataKey, WrappedKey
from trainer.machine.sealing.keyring import FILE, GIVE, KEYRING, Envelope, read_envelope

EVERYTHING = ("*",)


def seal_folder(folder: Path, encrypted: tuple[str, ...] = EVERYTHING) -> Envelope:
    """Has files below `folder`, of these patterns, written encrypted from now on; others can't enter it any more.

    Of a folder that was begun so before, the key is tried. KeyProblem where it is another.
    """
    folder = Path(os.path.abspath(folder))
    envelope = read_envelope(folder)
    if envelope is not None:
        for key in envelope.keys:
            KEYRING.open(key, folder)
    if envelope is None or not set(encrypted) <= set(envelope.encrypted):
        if envelope is None:
            key = WrappedKey.of(DataKey.fresh(), KEYRING.user_key(folder))
            envelope = _begin(Envelope(folder, encrypted, (key,)))
        else:
            patterns = dict.fromkeys((*envelope.encrypted, *encrypted))
            envelope = Envelope(folder, tuple(patterns), envelope.keys)
            write_envelope(envelope)
    with storage_errors(folder):
        folder.chmod(0o700)
    return envelope


def _begin(envelope: Envelope) -> Envelope:
    """Writes an encryption.json unless another process was faster; the one that is there. It appears whole."""
    path = envelope.folder / FILE
    whole = path.with_name(f"{FILE}.{platform.node()[:64]}-{os.getpid()}.tmp")
    with storage_errors(path):
        whole.unlink(missing_ok=True)
        with open(whole, "xb") as file:
            file.write(json_bytes(envelope.to_json()))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(whole, path)
        except FileExistsError:
            pass
        finally:
            whole.unlink()
        sync(envelope.folder)
    KEYRING.look_again()
    found = read_envelope(envelope.folder)
    assert found is not None
    KEYRING.open(found.keys[0], envelope.folder)
    return found


def write_envelope(envelope: Envelope) -> None:
    """Writes encryption.json durably."""
    write_json(envelope.folder / FILE, envelope.to_json())
    KEYRING.look_again()


def check_sealed(folder: Path, key: str, *, wanted: bool, begun: Iterable[Path] = ()) -> None:
    """Refuses to go on in a folder that was begun encrypted without a key, or begun plain with one. `key` names it.

    `begun` are files that show that it was.
    """
    envelope = read_envelope(folder)
    if envelope is not None and not wanted:
        raise ConfigError(f"{key}={folder}: encrypted; {GIVE}")
    if envelope is None and wanted and any(path.exists() for path in begun):
        raise ConfigError(f"{key}={folder} was begun without encryption: choose another folder, or remove that one.")

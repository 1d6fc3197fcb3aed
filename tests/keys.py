"""Keys of data that are encrypted, for tests in this process; and a search for what should be."""

import contextlib
import os
import secrets

from trainer.machine.sealing.keyring import KEYRING, PLAIN_ENDINGS, PLAIN_NAMES
from trainer.machine.sealing.sealed_file import MAGIC
from trainer.machine.sealing.user_key import KeySource


def write_key(path):
    """A key file that only its owner may read."""
    path.write_text(secrets.token_hex(32) + "\n")
    path.chmod(0o600)
    return path


@contextlib.contextmanager
def using(key):
    """This process encrypts and decrypts by the key in a file, if any, and is then as before."""
    umask = os.umask(0o022)
    KEYRING.__init__()
    try:
        KEYRING.use(key and KeySource.of(str(key), None, None, "data.encryption"))
        yield KEYRING
    finally:
        KEYRING.__init__()
        os.umask(umask)


def unencrypted(folder, allowed=()):
    """Files below a folder that are neither encrypted, nor of those names that are known to be plain."""
    plain = (*PLAIN_NAMES, *allowed)
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file()
        and path.stat().st_size
        and not path.read_bytes().startswith(MAGIC)
        and path.suffix not in (*PLAIN_ENDINGS, ".claim")
        and not any(name in path.name for name in plain)
    ]


def found(folder, needles):
    """Files below a folder that hold any of these bytes."""
    contents = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return [str(path) for path, content in contents.items() if any(needle in content for needle in needles)]


def open_to_others(folder):
    """Files and folders that others may read or enter."""
    return [str(path) for path in (folder, *folder.rglob("*")) if path.lstat().st_mode & 0o077]

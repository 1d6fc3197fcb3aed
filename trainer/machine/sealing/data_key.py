"""Data keys, which files are encrypted with, and how the user's key wraps them.

A folder has a random data key of its own. It is stored wrapped by the user's key (AES key wrap, RFC 3394), so that
another user's key is a matter of wrapping it anew. Every file has a key that is derived from it and from a random salt
in the file (HKDF with SHA-256, RFC 5869).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import Any

from trainer.errors import ConfigError
from trainer.machine.sealing.user_key import KEY_BYTES, KeyProblem, UserKey

ID_BYTES = 16
CIPHER = "AES-256-GCM"


def ciphers() -> Any:
    """The package `cryptography`. ConfigError where it isn't installed."""
    try:
        import cryptography
    except ImportError:
        raise ConfigError(
            'encryption needs `cryptography`, which isn\'t installed: pip install "banyan-train[encryption]".'
        ) from None
    return cryptography


@dataclass(frozen=True)
class DataKey:
    """A key of 32 random bytes; `id` names it in the files that are encrypted with it."""

    secret: bytes = field(repr=False)

    @staticmethod
    def fresh() -> DataKey:
        """A new one."""
        return DataKey(os.urandom(KEY_BYTES))

    @property
    def id(self) -> bytes:
        """16 bytes of a hash that no key follows from."""
        return hashlib.sha256(b"banyan data key\0" + self.secret).digest()[:ID_BYTES]

    def of_file(self, salt: bytes) -> Any:
        """The cipher (AESGCM) of the file that has this salt."""
        ciphers()
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        return AESGCM(HKDF(SHA256(), KEY_BYTES, salt, b"banyan sealed file 1").derive(self.secret))


@dataclass(frozen=True)
class WrappedKey:
    """A data key as it is stored: its id, the name of the user's key that wraps it, and the wrapped key, all in hex."""

    id: str
    user_key: str
    wrapped: str
    cipher: str = CIPHER

    @staticmethod
    def of(key: DataKey, user: UserKey) -> WrappedKey:
        """A data key, wrapped."""
        ciphers()
        from cryptography.hazmat.primitives.keywrap import aes_key_wrap

        return WrappedKey(key.id.hex(), user.name, aes_key_wrap(user.secret, key.secret).hex())

    def unwrapped(self, user: UserKey, what: str, source: str) -> DataKey:
        """The data key. KeyProblem, about `what` and the key's `source`, where this isn't the user's key."""
        ciphers()
        from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

        try:
            key = DataKey(aes_key_unwrap(user.secret, bytes.fromhex(self.wrapped)))
        except (InvalidUnwrap, ValueError):
            key = None
        if key is None or key.id.hex() != self.id or self.cipher != CIPHER:
            raise KeyProblem(
                f"{what}: encrypted with another key than {source} (with the one named {self.user_key[:16]!a}, this is "
                f"{user.name!a}); give the key that it was encrypted with."
            )
        return key

"""Encryption at rest: where the key comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from trainer.config.knobs import knob, part
from trainer.machine.sealing.keyring import KEYRING
from trainer.machine.sealing.user_key import KeySource

SECTION = "data.encryption"


@dataclass
class Encryption:
    """The key of data, checkpoints and what comes between that are encrypted at rest; exactly one of these."""

    key_file: Optional[str] = knob(
        None, "File with the key, 64 hexadecimal digits or base64 of 32 bytes, that nobody else may read.", later=True
    )
    key_env: Optional[str] = knob(None, "Environment variable that holds it.", later=True)
    key_command: Optional[str] = knob(None, "Command that prints it, run without a shell.", later=True)

    @property
    def source(self) -> KeySource | None:
        """Where the key comes from; None where nothing is to be encrypted. KeyProblem where several are given."""
        return KeySource.of(self.key_file, self.key_env, self.key_command, SECTION)


@dataclass
class KeyOfData:
    """What a verb that reads a run, and no data, has of `data`: the key of what is encrypted."""

    encryption: Encryption = part(Encryption)


def use_key(config: object) -> None:
    """Has this process encrypt and decrypt by the key that a configuration names, if it does. KeyProblem, a line."""
    encryption = getattr(getattr(config, "data", None), "encryption", None)
    if isinstance(encryption, Encryption):
        use_key_of(encryption)


def use_key_of(encryption: Encryption) -> None:
    """The same of its section."""
    KEYRING.use(encryption.source)

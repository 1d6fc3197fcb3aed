"""The user's key: 32 bytes as 64 hexadecimal digits or as base64, from a file, an environment variable or a command."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import shlex
import stat
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from trainer.errors import InputError

KEY_BYTES = 32
MOST_TEXT = 4096  # bytes of a key file, or of what a command prints
COMMAND_S = 60.0  # that a command may take
FORM = "32 bytes as 64 hexadecimal digits or as base64, such as `openssl rand -hex 32` prints"


class KeyProblem(InputError):
    """A key that is missing, malformed, or another than the one that was encrypted with."""


@dataclass(frozen=True)
class UserKey:
    """A key of the user's; `name` tells it from others, and nothing about it."""

    secret: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """16 hexadecimal digits, of a hash that no key follows from."""
        return hashlib.sha256(b"banyan user key\0" + self.secret).hexdigest()[:16]


@dataclass(frozen=True)
class KeySource:
    """Where the user's key comes from: exactly one of the three; `section` is the keys' prefix, for messages."""

    file: str | None = None
    variable: str | None = None
    command: str | None = None
    section: str = "data.encryption"

    @staticmethod
    def of(file: str | None, variable: str | None, command: str | None, section: str) -> KeySource | None:
        """The one that is given; None where none is. KeyProblem where several are."""
        given = {"key_file": file, "key_env": variable, "key_command": command}
        names = [f"{section}.{name}" for name, value in given.items() if value is not None]
        if len(names) > 1:
            raise KeyProblem(f"{' and '.join(names)}: give exactly one of them.")
        place = None if file is None else os.path.abspath(os.path.expanduser(file))
        return KeySource(place, variable, command, section) if names else None

    def __str__(self) -> str:
        if self.file is not None:
            return f"{self.section}.key_file={self.file}"
        if self.variable is not None:
            return f"{self.section}.key_env={self.variable}"
        return f"{self.section}.key_command"

    def read(self) -> UserKey:
        """The key. KeyProblem where there is none, others may read it, or it isn't one."""
        if self.file is not None:
            text = self._of_file(Path(self.file))
        elif self.variable is not None:
            text = os.environb.get(os.fsencode(self.variable), b"")
            if not text:
                raise KeyProblem(f"{self}: the environment has no such variable, or it is empty; set it to the key.")
        else:
            text = self._of_command(str(self.command))
        return UserKey(self._parse(text))

    def _of_file(self, path: Path) -> bytes:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise KeyProblem(f"{self}: not a regular file; name the key's file.")
                if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                    raise KeyProblem(
                        f"{self}: others may read it (mode {stat.S_IMODE(status.st_mode):04o}); chmod 600 {path}."
                    )
                return file.read(MOST_TEXT + 1)
        except OSError as error:
            raise KeyProblem(f"{self}: can't be read ({error.strerror}); name the key's file.") from error

    def _of_command(self, command: str) -> bytes:
        """What a command prints; it is no shell's, and what it says on stderr is shown as it is."""
        try:
            words = shlex.split(command)
            ended = subprocess.run(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=COMMAND_S, check=False
            )
        except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
            why = f"took {COMMAND_S:.0f} s" if isinstance(error, subprocess.TimeoutExpired) else error
            raise KeyProblem(f"{self}: can't be run ({why}); give a command that prints the key.") from None
        if ended.returncode != 0:
            raise KeyProblem(f"{self}: it ended with code {ended.returncode}; give a command that prints the key.")
        return ended.stdout

    def _parse(self, text: bytes) -> bytes:
        stripped = text.strip() if len(text) <= MOST_TEXT else b""
        if re.fullmatch(rb"[0-9a-fA-F]{64}", stripped):
            return bytes.fromhex(stripped.decode("ascii"))
        try:
            secret = base64.b64decode(stripped.translate(bytes.maketrans(b"-_", b"+/")), validate=True)
        except binascii.Error:
            secret = b""
        if len(secret) != KEY_BYTES:
            raise KeyProblem(f"{self}: no key; it must be {FORM}.")
        return secret

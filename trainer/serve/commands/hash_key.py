"""`banyan serve hash-key < KEY`: a key as serve.keys may hold it, so that the file doesn't tell it."""

from __future__ import annotations

import sys

from trainer.errors import ConfigError
from trainer.serve.keys import SHORTEST, hash_key


def main(arguments: list[str]) -> int:
    """Prints the hash of the line on standard input."""
    if arguments:
        raise ConfigError("banyan serve hash-key: give the key on standard input, where no list of processes shows it.")
    key = sys.stdin.readline().strip()
    if len(key) < SHORTEST or any(letter.isspace() for letter in key):
        raise ConfigError(f"banyan serve hash-key: a key has {SHORTEST} characters at least, and no blanks.")
    print(hash_key(key))
    return 0

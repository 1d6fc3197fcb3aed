"""Opens the files of sources, wherever they are: by a local path or a URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from trainer.data.text.file_names import escape
from trainer.data.text.remote import is_remote, open_remote
from trainer.errors import InputError


@contextmanager
def open_file(address: str) -> Iterator[BinaryIO]:
    """The file at `address`, a local path or a URL, to be read from any place. InputError if it can't be read."""
    try:
        with open_remote(address) if is_remote(address) else open(address, "rb") as file:
            yield file
    except OSError as error:
        raise InputError(f"{escape(address)}: can't be read ({error.strerror or error}).") from error

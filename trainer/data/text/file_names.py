"""Names of files as text: escaped where they aren't UTF-8 or would meddle with a terminal, and back again by eye."""

from __future__ import annotations

import os


def escape(name: str | os.PathLike[str]) -> str:
    r"""A file name or path that can be printed and stored as UTF-8, whatever the locale.

    Bytes that aren't UTF-8 or don't show (line feeds, terminal escapes) become `\xHH`, and `\` becomes `\\`; so the
    name's bytes can always be had back. All other names stay as they are.
    """
    text = as_utf8(os.fspath(name))
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(map(_escape_character, text))


def as_utf8(text: str) -> str:
    """Text of a command line, where an ASCII locale has made a surrogate of each byte of its characters."""
    read = text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    return text if read == text else read  # itself, which may know that it came from the environment


def _escape_character(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))

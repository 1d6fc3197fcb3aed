"""Names of files that others give (in a manifest, COMPLETE, a weight_map): they name a neighbour, and are no path."""

from __future__ import annotations

import os
from pathlib import Path

from trainer.errors import InputError

LONGEST_BYTES = 255  # of a name on Linux's file systems


def bare_name(name: object, source: Path) -> str:
    """`name`, which `source` gives, if it is that of a file in one folder. InputError names `source` and the name.

    Refused are paths ("a/b", "/a", "..", "" and "."; a backslash as well), what isn't text, what can't be printed (NUL,
    terminal escapes, lone surrogates), and names longer than a file system takes.
    """
    if not isinstance(name, str):
        raise InputError(f"{source}: {_shown(name)} stands where the name of a file should; fetch or make it again.")
    if name in ("", os.curdir, os.pardir) or "/" in name or "\\" in name or not name.isprintable():
        raise InputError(f"{source}: {_shown(name)} is no bare name of a file in its folder; fetch or make it again.")
    if len(name.encode()) > LONGEST_BYTES:
        raise InputError(f"{source}: {_shown(name)} is longer than {LONGEST_BYTES} bytes; fetch or make it again.")
    return name


def _shown(name: object) -> str:
    """Short, in a line, and in ASCII: the name comes from others."""
    text = ascii(name)
    return text if len(text) <= 80 else f"{text[:80]}…"

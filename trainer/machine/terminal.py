"""Text of others on a terminal: what would steer it is shown as an escape, such as \\x1b, instead of being obeyed.

Steering characters are the controls C0 (but for newline and tab), DEL and C1, those that turn the direction of writing
round, line separators and tags, which are invisible, and halves of surrogate pairs (file names that aren't UTF-8).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import TextIO

_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_STEERING = re.compile(
    f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_BIDI}\u2028\u2029\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def safe(text: str) -> str:
    """`text` for a terminal; its lines and tabs stay, and so do Windows' line ends, as newlines."""
    return _STEERING.sub(_escape, text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """`text` for one line of a terminal: newlines and tabs are escaped too."""
    return _STEERING.sub(_escape, text).replace("\n", r"\n").replace("\t", r"\t")


def show(text: str = "", *, end: str = "\n", file: TextIO | None = None) -> None:
    """Prints text that others may have had a hand in."""
    print(safe(text), end=end, file=file, flush=True)


def _escape(found: re.Match[str]) -> str:
    """A character as Python writes it: \\x1b, \\u202e."""
    return found[0].encode("ascii", "backslashreplace").decode() if found[0] > "\x7f" else ascii(found[0])[1:-1]


def write_stream(pieces: Iterable[str], out: TextIO) -> None:
    """Writes pieces as they come and ends the line; a terminal gets control characters escaped, a pipe as they are.

    A reader that has gone away (`| head`) ends it quietly.
    """
    terminal = out.isatty()
    try:
        for piece in pieces:
            out.write(safe(piece) if terminal else piece)
            out.flush()
        out.write("\n")
        out.flush()
    except BrokenPipeError:
        # The interpreter flushes once more on its way out: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())

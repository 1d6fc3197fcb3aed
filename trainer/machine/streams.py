"""Standard output and error that end no run: what can't be shown is shown otherwise, or not at all.

`banyan pretrain | head -1`, a terminal that is closed, `>&-`, a full disk behind `> file`: training goes on.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import logging
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Any, TextIO

NAMES = {1: "standard output", 2: "standard error"}
ERRORS = {1: "replace", 2: "backslashreplace"}  # for characters that the console lacks
WAIT_S = 10.0  # for a reader that takes nothing at the moment
_lost: list[str] = []
_log: Callable[[str], None] | None = None


def use_utf8() -> None:
    """Starts this command anew in Python's UTF-8 mode where the locale is ASCII, which has no names for most files.

    Python does so by itself in the C locale, unless PYTHONUTF8=0 and PYTHONCOERCECLOCALE=0 forbid it.
    """
    if codecs.lookup(sys.getfilesystemencoding()).name == "ascii" and not sys.flags.utf8_mode:
        command = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "PYTHONUTF8": "1"})


def prepare() -> None:
    """What every command does first: characters that the console lacks are shown as "?", closed streams lead nowhere.

    A descriptor that is closed would otherwise be given to the next file that is opened, such as a checkpoint.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            if descriptor:
                _note(f"{NAMES[descriptor]} was closed")
    sys.stdout = sys.stdout or _on_outlet(1, encoding="utf-8")
    sys.stderr = sys.stderr or _on_outlet(2, encoding="utf-8")
    for descriptor, stream in ((1, sys.stdout), (2, sys.stderr)):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError):  # it flushes first
                stream.reconfigure(errors=ERRORS[descriptor])


def outlive_console() -> None:
    """From now on neither a write to the console that fails nor the end of the terminal (SIGHUP) ends this process."""
    sys.stdout, sys.stderr = _lasting(sys.stdout, 1), _lasting(sys.stderr, 2)
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def note_losses_in(log: logging.Logger) -> None:
    """Says in a log what of the console was lost, now and later."""
    global _log
    _log = log.warning
    while _lost:
        _log(_lost.pop(0))


def finish() -> None:
    """Before the end: what is still to be written and can't be is dropped, or the interpreter would fail on it."""
    for descriptor, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            _lead_nowhere(descriptor)


class Outlet(io.RawIOBase):
    """A descriptor that takes everything: once it can't be written, it leads nowhere, and that is noted."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """It is for writing alone."""
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Writes all, or as much as can be."""
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:
                if not select.select([], [self._descriptor], [], WAIT_S)[1]:
                    self._lose(f"took nothing for {WAIT_S:g} s")
            except OSError as error:
                self._lose(f"can't be written any more ({error.strerror})")
        return len(data)

    def _lose(self, reason: str) -> None:
        _lead_nowhere(self._descriptor)
        _note(f"{NAMES[self._descriptor]} {reason}")


def _lasting(stream: TextIO, descriptor: int) -> TextIO:
    """The stream on an Outlet; one that isn't the console's, as a test's, stays."""
    try:
        if not isinstance(stream, io.TextIOWrapper) or stream.fileno() != descriptor:
            return stream
    except OSError:  # it has no descriptor
        return stream
    with contextlib.suppress(OSError):
        stream.flush()
    return _on_outlet(
        descriptor,
        encoding=stream.encoding,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _on_outlet(descriptor: int, **settings: Any) -> TextIO:
    outlet: Any = Outlet(descriptor)  # raw, so that what is flushed is written
    return io.TextIOWrapper(outlet, errors=ERRORS[descriptor], **settings)


def _lead_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _note(what: str) -> None:
    line = f"{what}: going on without it; look at metrics.jsonl and this log"
    if _log is None:
        _lost.append(line)
    else:
        _log(line)

"""logs/rank-NNNNN.log: what a rank and its libraries log and print, and why it failed. `banyan logs` reads them.

A file is bounded: once it has MOST_BYTES it becomes rank-NNNNN.log.1, in the place of the one before.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import logging.handlers
import os
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

from trainer.errors import BanyanError
from trainer.machine import streams
from trainer.machine.credentials import masked
from trainer.machine.durable import require_plain_file
from trainer.machine.process import RUN_FOLDER_VARIABLE

MOST_BYTES = 16 << 20
LONGEST_LINE = 1 << 16  # characters of what is printed without a line's end
STREAMS = ("banyan.stdout", "banyan.stderr")  # loggers of what is printed
FAILED = "banyan.failed"  # logger of why a rank failed


def log_name(rank: int) -> str:
    """The file of a rank's log."""
    return f"rank-{rank:05d}.log"


class _MaskingFormatter(logging.Formatter):
    """Keeps secrets out of what libraries log, such as their whole configuration."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line, masked."""
        return masked(super().format(record))


def log_to_file(run_dir: Path, rank: int) -> int | None:
    """Sends this rank's log, DeepSpeed's included, to logs/rank-NNNNN.log instead of the terminal; its descriptor."""
    path = run_dir / "logs" / log_name(rank)
    try:
        require_plain_file(path)
        handler: logging.Handler = logging.handlers.RotatingFileHandler(
            path, encoding="utf-8", errors="backslashreplace", maxBytes=MOST_BYTES, backupCount=1
        )
    except OSError as error:
        print(f"banyan: {path}: can't be written ({error.strerror}), so that no log is kept", flush=True)
        handler = logging.NullHandler()
    handler.setFormatter(_MaskingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in (None, "DeepSpeed"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    streams.note_losses_in(logging.getLogger("banyan"))
    return handler.stream.fileno() if isinstance(handler, logging.StreamHandler) else None


class RankLog:
    """The log of a rank of a run, from `open` to the end of the `with`, whose exception it logs as the rank's end."""

    def __init__(self) -> None:
        self._streams: tuple[Any, Any] | None = None
        self._crashes: int | None = None
        self.descriptor: int | None = None  # of the log; None where none is kept

    def open(self, run_dir: Path, rank: int) -> None:
        """Begins to keep what is logged and printed; a crash in native code leaves its stacks there."""
        log = self.descriptor = log_to_file(run_dir, rank)
        tell_launcher(run_dir)
        self._streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = (Kept(stream, name) for stream, name in zip(self._streams, STREAMS, strict=True))
        if log is not None and not faulthandler.is_enabled():
            self._crashes = os.dup(log)
            faulthandler.enable(self._crashes)

    def __enter__(self) -> RankLog:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._streams is None:
            return
        sys.stdout, sys.stderr = self._streams
        if self._crashes is not None:
            faulthandler.disable()
            os.close(self._crashes)
        if error is not None:
            logging.getLogger(FAILED).error(error_in_words(error))


def tell_launcher(run_dir: Path) -> None:
    """Says where the run is, so that a launcher can leave there what becomes of its ranks."""
    file = os.environ.get(RUN_FOLDER_VARIABLE)
    if file:
        with contextlib.suppress(OSError), open(file, "r+b") as shared:
            shared.write(os.fsencode(run_dir))


def error_in_words(error: BaseException) -> str:
    """A failure as it is logged: a line where that says all, else the traceback as well."""
    line = f"{type(error).__name__}: {error}".removesuffix(": ")
    if isinstance(error, BanyanError) or not isinstance(error, Exception):
        return line
    return f"{line}\n{''.join(traceback.format_exception(error)).rstrip()}"


class Kept:
    """A stream whose lines are logged as well as written. What steers a terminal, as a progress bar, isn't logged."""

    def __init__(self, stream: Any, name: str) -> None:
        self._stream = stream
        self._log = logging.getLogger(name)
        self._level = logging.WARNING if name == STREAMS[1] else logging.INFO
        self._line = ""
        self._logging = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes, and logs each line that is whole."""
        written: int = self._stream.write(text)
        if not self._logging:  # a log that can't be written says so here
            self._logging = True
            try:
                *lines, self._line = (self._line + text).split("\n")
                for line in [*lines, *([self._line] if len(self._line) > LONGEST_LINE else [])]:
                    if line.strip() and "\x1b" not in line and "\r" not in line:
                        self._log.log(self._level, "%s", line)
                self._line = self._line if len(self._line) <= LONGEST_LINE else ""
            finally:
                self._logging = False
        return written

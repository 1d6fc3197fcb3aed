"""What a rank leaves to its launcher: the end of what it prints, and why it failed. Nothing of it is on any disk."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType

from launch import failure
from launch.failure import Failure

TAIL_BYTES = 1 << 18
TAIL_LINES = 100
_CHUNK = 1 << 16
_END_S = 2.0  # a process that the rank has left behind may keep the pipe open


class Tail:
    """The last lines of what a process prints, which is read as it comes: the process never waits for it.

    As a context manager it gives the file descriptor to print to, for the time in which the process is started.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self._content = bytearray()
        self._thread = threading.Thread(target=self._follow, name="rank-output", daemon=True)

    def __enter__(self) -> int:
        return self._write

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._write)
        self._thread.start()

    def _follow(self) -> None:
        with contextlib.closing(os.fdopen(self._read, "rb", buffering=0)) as source:
            while part := source.read(_CHUNK):
                self._content += part
                del self._content[:-TAIL_BYTES]

    def text(self) -> str:
        """The last lines; to be asked for once the process has ended."""
        self._thread.join(_END_S)
        return "\n".join(bytes(self._content).decode("utf-8", errors="replace").splitlines()[-TAIL_LINES:])


class SharedFile:
    """A file of this process's that a rank writes into; `path` is how it finds it, as long as this process lives."""

    def __init__(self) -> None:
        if sys.platform == "linux":
            self._descriptor = os.memfd_create("banyan-rank")
            self.path = Path(f"/proc/{os.getpid()}/fd/{self._descriptor}")
        else:
            self._descriptor, name = tempfile.mkstemp(prefix="banyan-rank-")
            self.path = Path(name)

    def is_empty(self) -> bool:
        """Whether nothing has been written."""
        return os.fstat(self._descriptor).st_size == 0

    def close(self) -> None:
        """Lets it go. The rank must have ended."""
        os.close(self._descriptor)
        if sys.platform != "linux":
            self.path.unlink(missing_ok=True)


class ErrorFile(SharedFile):
    """Where a rank leaves why it failed."""

    def read(self) -> Failure | None:
        """Why it failed, if it has said so."""
        return None if self.is_empty() else failure.read(self.path)


class FolderFile(SharedFile):
    """Where a rank leaves which run directory it works in."""

    def read(self) -> Path | None:
        """The run directory; None if it hasn't entered one."""
        return None if self.is_empty() else Path(os.fsdecode(self.path.read_bytes()))

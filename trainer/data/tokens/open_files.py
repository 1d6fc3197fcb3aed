"""Memory-mapped files, of which the most recently used stay open: neither descriptors nor maps run out.

A map holds a descriptor; `ulimit -n` is often 1,024, and a dataset may have tens of thousands of shards.
"""

from __future__ import annotations

import mmap
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from trainer.machine.sealing.plaintext import unsealed_content

MOST_OPEN = 256  # of all datasets together: more than a window of shuffled shards (data.shuffle_shards) usually has


class OpenFiles:
    """Maps of files. Threads may share it; an array that was handed out stays valid after its file's turn."""

    def __init__(self, most: int = MOST_OPEN) -> None:
        self._most = most
        self._maps: OrderedDict[OpenFile, Any] = OrderedDict()
        self._lock = threading.RLock()  # a file may be let go of by the garbage collector, in the middle of `get`

    def get(self, file: OpenFile) -> Any:
        """The bytes of a file that isn't empty: (size,) uint8, read-only; of an encrypted one SealedContent."""
        with self._lock:
            found = self._maps.get(file)
            if found is None:
                with open(file.path, "rb") as opened:
                    stored = np.frombuffer(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
                found = unsealed_content(stored, file.path)
                self._maps[file] = found
                while len(self._maps) > self._most:
                    self._maps.popitem(last=False)
            self._maps.move_to_end(file)
            return found

    def close(self, file: OpenFile) -> None:
        """Lets go of a file, as if its turn had come."""
        with self._lock:
            self._maps.pop(file, None)


OPEN = OpenFiles()


class OpenFile:
    """A file as one reader sees it: another reader opens it anew, for it may have been replaced meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def content(self) -> Any:
        """Its bytes, as `OpenFiles.get`."""
        return OPEN.get(self)

    def close(self) -> None:
        """Lets go of it; the next `content` opens it again."""
        OPEN.close(self)

"""Notes that ranks leave each other while a checkpoint is written: files in a folder, since threads run no collectives.

The folder is beside the attempt's, and goes with it: when the checkpoint is written, or with what killed writers left.
"""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

SOONEST_S, LATEST_S = 0.02, 0.5  # between two looks
FAILED = re.compile(r"rank-(\d+)\.failed")


class Notes:
    """The notes of one attempt; `folder` is made by rank 0 and seen by all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def leave(self, rank: int, kind: str, content: bytes = b"") -> None:
        """A note of this rank, which is there as a whole or not at all."""
        path = self.path(rank, kind)
        unfinished = path.with_name(f"{path.name}~")
        unfinished.write_bytes(content)
        unfinished.replace(path)

    def fail(self, rank: int, problem: str) -> None:
        """This rank's problem, for rank 0."""
        self.leave(rank, "failed", problem.encode("utf-8", "replace"))

    def path(self, rank: int, kind: str) -> Path:
        """Where a rank's note is."""
        return self.folder / f"rank-{rank:05d}.{kind}"

    def wait_for_all(self, kind: str, world_size: int, stop: threading.Event) -> str | None:
        """Returns once every rank has left a note of this kind, or with the problem of one that failed."""
        pause = SOONEST_S
        while True:
            names = set(os.listdir(self.folder))
            failed = sorted(int(match[1]) for name in names if (match := FAILED.fullmatch(name)))
            if failed:
                return f"rank {failed[0]}: {self.path(failed[0], 'failed').read_text('utf-8')}"
            if all(self.path(rank, kind).name in names for rank in range(world_size)):
                return None
            if stop.wait(pause):
                return "another rank failed"
            pause = min(LATEST_S, pause * 1.5)

    def wait_for_main(self, kind: str, stop: threading.Event) -> bool:
        """Returns whether rank 0 has left a note of this kind: once it is there, or the folder is gone."""
        pause = SOONEST_S
        while self.folder.is_dir():
            if self.path(0, kind).exists():
                return True
            if stop.wait(pause):
                break
            pause = min(LATEST_S, pause * 1.5)
        return False

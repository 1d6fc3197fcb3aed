"""A folder that doesn't outlive the process that made it, even one killed by SIGKILL."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Waits for the end of its input, which is that of the process that started it, then for others to let go of the folder.
_REMOVE = 'cat >/dev/null; for _ in 1 2 3 4 5; do rm -rf "$0" 2>/dev/null; [ -e "$0" ] || exit 0; sleep 2; done'


@contextlib.contextmanager
def vanishing_folder(prefix: str, base: str | Path | None = None) -> Iterator[Path]:
    """A new folder in `base`, by default where temporary files go, that nobody else can enter."""
    folder = tempfile.mkdtemp(prefix=prefix, dir=base)
    remover = subprocess.Popen(["sh", "-c", _REMOVE, folder], stdin=subprocess.PIPE, start_new_session=True)
    assert remover.stdin is not None
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        remover.stdin.close()
        remover.wait()

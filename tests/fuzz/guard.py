"""What a case may touch: a snapshot of the guarded folder, and an ear in the child that hears of everything else."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

HASHED_BYTES = 2**26  # larger files are holes that a mutation made
PROGRAMS = ("git", "lscpu", "uname", "nvidia-smi", "ldconfig")
WRITES = {
    **{f"os.{name}": 1 for name in ("remove", "mkdir", "rmdir", "truncate", "chmod", "chown", "utime", "mkfifo")},
    **{f"os.{name}": 2 for name in ("rename", "link", "symlink")},
}
"""Audit events that write, with the number of paths among their arguments."""


def snapshot(folder: Path) -> dict[str, str]:
    """What lies below `folder`: kind, size and hash, or a link's target, by path. Modes are left to the mutations."""
    found: dict[str, str] = {}

    def look(place: str) -> None:
        for entry in os.scandir(place):
            name = os.path.relpath(entry.path, folder)
            status = entry.stat(follow_symlinks=False)
            if entry.is_symlink():
                found[name] = f"link {os.readlink(entry.path)}"
            elif entry.is_dir():
                found[name] = "folder"
                look(entry.path)
            elif not stat.S_ISREG(status.st_mode):
                found[name] = "special"
            elif status.st_size > HASHED_BYTES:
                found[name] = f"{status.st_size} bytes"
            else:
                with open(entry.path, "rb") as file:
                    found[name] = f"{status.st_size} bytes {hashlib.md5(file.read()).hexdigest()}"

    look(str(folder))
    return found


def changed_outside(before: dict[str, str], after: dict[str, str], allowed: Iterable[str]) -> list[str]:
    """Paths that changed and lie in none of the `allowed` folders."""
    changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    return sorted(name for name in changed if not any(name == a or name.startswith(f"{a}/") for a in allowed))


def listen(case: Path, forbidden: tuple[str, ...], tell: Callable[[str], None]) -> None:
    """Tells of writes beyond the case's folder, of reads of `forbidden` paths, of programs and connections.

    The hook stays for the life of the process.
    """
    operators = os.environ.get("TORCH_EXTENSIONS_DIR", str(case))  # DeepSpeed's, which has a lock file
    inside = (str(case), operators, "/dev/null", "/dev/shm", "/proc/self", "/dev/tty")
    traps = {os.path.normpath(path) for path in forbidden}

    def written(path: Any) -> None:
        if isinstance(path, int) or path is None:
            return
        place = os.path.abspath(os.fsdecode(path))
        if not place.startswith(inside):
            tell(f"writes {place}")

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
                written(path)
            elif not isinstance(path, int) and os.path.abspath(os.fsdecode(path)) in traps:
                tell(f"reads {os.path.abspath(os.fsdecode(path))}")
        elif event in WRITES:
            for path in arguments[: WRITES[event]]:
                written(path)
        elif event == "subprocess.Popen":
            if os.path.basename(os.fsdecode(arguments[0])) not in PROGRAMS:
                tell(f"starts {arguments[0]}")
        elif event in ("os.system", "os.exec", "os.posix_spawn"):
            tell(f"{event} {arguments[0]!r}")
        elif event == "socket.connect" and isinstance(arguments[1], tuple):
            if arguments[1][0] not in ("127.0.0.1", "::1", "localhost"):
                tell(f"connects to {arguments[1]}")
        elif event == "socket.getaddrinfo" and arguments[0] not in (None, "127.0.0.1", "localhost", "::1", ""):
            tell(f"looks up {arguments[0]}")

    sys.addaudithook(hear)

"""Where what was built once is kept for the next start: ~/.cache/banyan, or below XDG_CACHE_HOME."""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from trainer.errors import StorageError


def cache_folder(environment: Mapping[str, str], name: str) -> Path:
    """The folder for `name`, made where it is missing.

    Where a home is missing or can't be written, as in many containers, it is one in the folder for temporary files
    that nobody else can enter; a line says so. StorageError if there is none of that kind either.
    """
    given = environment.get("XDG_CACHE_HOME") or _home(environment)
    if given:
        folder = Path(given) / "banyan" / name
        problem = _problem_of(folder)
        if problem is None:
            return folder
        problem = f"{folder} can't be written ({problem})"
    else:
        problem = "this user has no home folder that can be written (HOME)"
    return _temporary(name, problem)


def _home(environment: Mapping[str, str]) -> str | None:
    """The user's ~/.cache; None where neither HOME nor the system's list of users knows a home."""
    home = environment.get("HOME")
    if not home:
        with contextlib.suppress(KeyError):
            home = pwd.getpwuid(os.getuid()).pw_dir
    return os.path.join(home, ".cache") if home and os.path.isabs(home) else None


def _problem_of(folder: Path) -> str | None:
    """Why files can't be made in `folder`, which is made itself; None if they can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _temporary(name: str, problem: str) -> Path:
    """A private folder with a name that the next start knows. Others could have made one of that name: not used.

    From now on it is this process's XDG_CACHE_HOME, for libraries and processes that it starts.
    """
    private = Path(tempfile.gettempdir()) / f"banyan-{os.getuid()}"
    folder = private / "banyan" / name
    try:
        private.mkdir(mode=0o700, exist_ok=True)
        status = private.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise PermissionError(0, "others could write there")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{problem}, nor can {private} ({error.strerror}): name a folder by XDG_CACHE_HOME=DIR."
        ) from None
    print(
        f"banyan: {problem}: what is built is kept in {private}; XDG_CACHE_HOME=DIR names another folder",
        file=sys.stderr,
        flush=True,
    )
    os.environ["XDG_CACHE_HOME"] = str(private)
    return folder

"""What torch's compiler needs on a node with GPUs: Triton builds a small module of C there, once."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path


def compiler_problem() -> str | None:
    """What is missing here and how to mend it, so that Triton can build; None if nothing is."""
    given = os.environ.get("CC")
    if shutil.which(given) is None if given else not any(map(shutil.which, ("gcc", "clang"))):
        return f"Triton finds no C compiler ({given or 'gcc or clang'}); install gcc on every node"
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").is_file():
        return f"Triton finds no Python.h in {headers}; install python3-dev on every node"
    return None

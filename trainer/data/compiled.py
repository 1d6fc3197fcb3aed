"""Functions that are compiled when they are first called, by numba, without Python's lock.

    @compiled
    def total(numbers: np.ndarray) -> int: …

What was compiled is kept for the next process. numba takes a function's own file for all its source, so that a change
in a function that it calls goes unnoticed: here all these files together name the folder that keeps it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

from trainer.machine.cache_folder import cache_folder

Function = TypeVar("Function", bound=Callable[..., Any])

ROOMS = ("clean", "near")


@cache
def _keep_results() -> None:
    """Says where numba keeps what it compiled, unless NUMBA_CACHE_DIR says so."""
    if os.environ.get("NUMBA_CACHE_DIR"):
        return
    here = Path(__file__).parent
    files = sorted(path for room in ROOMS for path in (here / room).rglob("*.py"))
    sources = hashlib.sha256(b"".join(path.read_bytes() for path in (Path(__file__), *files))).hexdigest()
    settings: Any = numba.config
    settings.CACHE_DIR = str(cache_folder(os.environ, "compiled") / sources[:16])


def compiled(function: Function) -> Function:
    """The function, compiled for the types of its arguments when it is first called with them."""
    _keep_results()
    made: Any = numba.njit(nogil=True, cache=True)(function)
    return cast(Function, made)

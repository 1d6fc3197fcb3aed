"""What this process asks of its system: open files, memory that stays, an end with whoever started it.

A process may often have 1,024 files open (`ulimit -n`) where the system would allow far more.

glibc returns large blocks to the system when they are freed, and the next step's first write to each page is a page
fault: 5,000 of them in a step of the demonstration's model, 3 % of its time (docs/PERFORMANCE.md).
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable

MOST_FILES = 65536  # descriptors; beyond, some programs close all possible ones at each start of a process

# glibc's malloc.h; mallopt(3). The second is the largest that every glibc takes, and where its own rule ends.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
SETTINGS = {TRIM_THRESHOLD: 2**31 - 1, MMAP_THRESHOLD: 32 * 2**20}
RUN_FOLDER_VARIABLE = "BANYAN_RUN_FOLDER_FILE"  # a file in which a launcher wants to find the run directory
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def raise_file_limit() -> None:
    """Lets this process, and those that it starts, open as many files as the system allows, up to MOST_FILES."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def keep_freed_memory() -> bool:
    """Has freed blocks of up to 32 MiB, and 2 GiB at the end of the heap, kept for what comes next; larger go back.

    False where the user has tuned the allocator by VARIABLES, or the C library isn't glibc: nothing is changed then.
    """
    if any(name in os.environ for name in VARIABLES):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in SETTINGS.items())


def die_with(launcher: int) -> Callable[[], None] | None:
    """For Popen's preexec_fn: asks the kernel to kill the child when the thread that started it dies; Linux alone."""
    libc = _LIBC
    if libc is None:
        return None

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != launcher:
            os._exit(1)

    return ask

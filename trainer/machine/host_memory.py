"""The C library's memory: kept from step to step where tensors live in it, instead of handed back and asked for again.

glibc returns large blocks to the system when they are freed, and the next step's first write to each page is a page
fault: 5,000 of them in a step of the demonstration's model, 3 % of its time (docs/PERFORMANCE.md).
"""

from __future__ import annotations

import ctypes
import os

# glibc's malloc.h; mallopt(3). The second is the largest that every glibc takes, and where its own rule ends.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
SETTINGS = {TRIM_THRESHOLD: 2**31 - 1, MMAP_THRESHOLD: 32 * 2**20}
VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Has freed blocks of up to 32 MiB, and 2 GiB at the end of the heap, kept for what comes next; larger go back.

    False where the user has tuned the allocator by VARIABLES, or the C library isn't glibc: nothing is changed then.
    """
    if any(name in os.environ for name in VARIABLES):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in SETTINGS.items())

"""How many files a process may have open (`ulimit -n`): often 1,024, where the system would allow far more."""

from __future__ import annotations

import resource

WANTED = 65536  # descriptors; beyond, some programs close all possible ones at each start of a process


def raise_limit() -> None:
    """Lets this process, and those that it starts, open as many files as the system allows, up to WANTED."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

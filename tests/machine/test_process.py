"""Open files, and freed memory that stays for the next step."""

import os
import platform
import resource
import subprocess
import sys

import pytest

from trainer.machine.process import MOST_FILES, raise_file_limit

# Each larger than whatever was freed before, which glibc by itself gets from the system and gives back
GROWING = """
import resource, sys
import torch
from trainer.machine.process import keep_freed_memory

print(keep_freed_memory() if sys.argv[1] == "keep" else None)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for mebibytes in range(1, 31):
    torch.ones(mebibytes << 18)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library isn't glibc")


def faults(how: str, **environment: str) -> tuple[str, int]:
    """What keep_freed_memory said, and the page faults of tensors that come and go."""
    command = [sys.executable, "-c", GROWING, how]
    said, counted = subprocess.check_output(command, env=os.environ | environment, text=True).split()
    return said, int(counted)


@glibc
def test_freed_memory_is_used_again():
    _, by_default = faults("leave")
    said, kept = faults("keep")
    assert said == "True"
    assert kept < by_default / 2


def test_an_allocator_that_the_user_tuned_is_left_alone():
    said, _ = faults("keep", MALLOC_TRIM_THRESHOLD_="131072")
    assert said == "False"


def test_the_soft_limit_is_raised_within_the_hard_one():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        raise_file_limit()
        raised = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert raised == (MOST_FILES if hard == resource.RLIM_INFINITY else min(MOST_FILES, hard), hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

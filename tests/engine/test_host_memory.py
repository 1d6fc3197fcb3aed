"""Freed memory that stays for the next step."""

import os
import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, sys
import torch
from trainer.engine.host_memory import keep_freed_memory

print(keep_freed_memory() if sys.argv[1] == "keep" else None)
def step():
    kept = [torch.ones(2 << 20) for _ in range(12)]  # 8 MiB each
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library isn't glibc")


def faults(how: str, **environment: str) -> tuple[str, int]:
    """What keep_freed_memory said, and the page faults of three steps."""
    command = [sys.executable, "-c", STEPS, how]
    said, counted = subprocess.check_output(command, env=os.environ | environment, text=True).split()
    return said, int(counted)


@glibc
def test_steps_reuse_what_earlier_ones_freed():
    _, by_default = faults("leave")
    said, kept = faults("keep")
    assert said == "True"
    assert by_default > 10_000  # the C library gives the memory back after each step
    assert kept < 500


def test_an_allocator_that_the_user_tuned_is_left_alone():
    said, _ = faults("keep", MALLOC_TRIM_THRESHOLD_="131072")
    assert said == "False"
